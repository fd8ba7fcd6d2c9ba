"""Following the evaluations of a sampler of which nothing is known but its schedule."""

from __future__ import annotations

import pytest

from teacache.levels import ObservedLevels, UnknownLevels
from teacache.schedule import Schedule, StepTracker

SIGMAS = [1.0, 0.9, 0.75, 0.5, 0.2, 0.0]


def steps(evaluations: list[float]) -> list[int]:
    levels = ObservedLevels(SIGMAS)
    return [levels.advance(sigma) for sigma in evaluations]


def test_one_evaluation_at_each_level() -> None:
    levels = ObservedLevels(SIGMAS)
    assert [levels.advance(sigma) for sigma in SIGMAS[:-1]] == list(range(5))
    assert levels.one_per_level


@pytest.mark.parametrize(
    ("evaluations", "expected"),
    [
        ([1.0, 0.9, 0.9, 0.75, 0.75, 0.5, 0.5, 0.2, 0.2], [0, 1, 1, 2, 2, 3, 3, 4, 4]),
        ([1.0, 0.95, 0.9, 0.8, 0.75, 0.6, 0.5, 0.3, 0.2, 0.1], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]),
        ([1.0, 0.97, 0.95, 0.9, 0.75, 0.5, 0.2], [0, 0, 0, 1, 2, 3, 4]),
        ([0.9999, 0.9, 0.75], [0, 1, 2]),
        ([1.0, 0.95, 0.9, 0.95, 0.9, 0.8, 0.75, 0.8, 0.75], [0, 0, 1, 1, 1, 1, 2, 2, 2]),
    ],
    ids=["twice at a level", "half-way", "more at the start", "begins a little below", "back"],
)
def test_several_evaluations_within_a_step(evaluations: list[float], expected: list[int]) -> None:
    assert steps(evaluations) == expected


@pytest.mark.parametrize(
    "evaluations", [[0.97], [1.0, 0.6], [1.0, 0.9, 0.75, 0.97], [1.0, 0.9, 0.3]]
)
def test_what_the_schedule_does_not_lead_to(evaluations: list[float]) -> None:
    *first, last = evaluations
    levels = ObservedLevels(SIGMAS)
    for sigma in first:
        levels.advance(sigma)
    with pytest.raises(UnknownLevels, match="to which the schedule does not lead"):
        levels.advance(last)


def test_the_tracker_goes_on_where_the_schedule_is_left() -> None:
    tracker = StepTracker(Schedule(SIGMAS), False, observed=ObservedLevels(SIGMAS))
    tracker.advance(1.0)
    with pytest.raises(UnknownLevels):
        tracker.advance(0.6)
    assert (tracker.step, tracker.sigma, tracker.evaluations) == (2, 0.6, 2)
    tracker.advance(0.5)
    assert tracker.step == 3


def test_the_next_level_is_not_expected_but_seen() -> None:
    tracker = StepTracker(Schedule(SIGMAS), False, observed=ObservedLevels(SIGMAS))
    for sigma in SIGMAS[:3]:
        tracker.advance(sigma)
        assert tracker.expected_sigma is None, "another evaluation of this step may come first"
        assert tracker.step_size == SIGMAS[tracker.step + 1] - sigma
