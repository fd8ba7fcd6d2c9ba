"""Following the evaluations of a sampler of which nothing is known but its schedule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacache.levels import ObservedLevels, UnknownLevels
from teacache.schedule import Schedule, StepTracker

SIGMAS = [1.0, 0.9, 0.75, 0.5, 0.2, 0.0]


def steps(evaluations: list[float], counts: bool = False) -> list[int]:
    levels = ObservedLevels(SIGMAS, counts)
    return [levels.advance(sigma)[0] for sigma in evaluations]


@pytest.mark.parametrize("counts", [False, True])
def test_one_evaluation_at_each_level(counts: bool) -> None:
    levels = ObservedLevels(SIGMAS, counts)
    assert [levels.advance(sigma) for sigma in SIGMAS[:-1]] == list(enumerate(SIGMAS[:-1]))
    assert levels.one_per_level


@pytest.mark.parametrize(
    ("evaluations", "expected"),
    [
        ([1.0, 0.9, 0.9, 0.75, 0.75, 0.5, 0.5, 0.2, 0.2], [0, 1, 1, 2, 2, 3, 3, 4, 4]),
        ([1.0, 0.95, 0.9, 0.8, 0.75, 0.6, 0.5, 0.3, 0.2, 0.1], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]),
        ([1.0, 0.97, 0.95, 0.9, 0.75, 0.5, 0.2], [0, 0, 0, 1, 2, 3, 4]),
        ([0.9999, 0.9, 0.75], [0, 1, 2]),
    ],
    ids=["twice at a level", "half-way", "more at the start", "begins a little below"],
)
def test_several_evaluations_within_a_step(evaluations: list[float], expected: list[int]) -> None:
    assert steps(evaluations) == expected


@given(st.lists(st.floats(0.6, 1.6), min_size=5, max_size=5))
def test_a_wrapper_shows_other_levels_than_it_is_at(shifts: list[float]) -> None:
    levels = ObservedLevels(SIGMAS, counts=True)
    shown = [sigma * shift for sigma, shift in zip(SIGMAS[:-1], shifts, strict=True)]
    assert [levels.advance(sigma) for sigma in shown] == list(enumerate(SIGMAS[:-1]))


@pytest.mark.parametrize(
    ("evaluations", "counts"),
    [
        ([0.97], False),
        ([1.0, 0.6], False),
        ([1.0, 0.9, 0.97], False),
        ([1.0, 0.9, 0.75, 0.5, 0.2, 0.2], True),
        ([0.4], True),
        ([1.0, 0.9, 0.3], True),
    ],
)
def test_what_the_schedule_does_not_lead_to(evaluations: list[float], counts: bool) -> None:
    *first, last = evaluations
    levels = ObservedLevels(SIGMAS, counts)
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


def test_a_counted_step_is_at_the_level_of_the_schedule() -> None:
    tracker = StepTracker(Schedule(SIGMAS), False, observed=ObservedLevels(SIGMAS, counts=True))
    for shown, level, following in zip([0.95, 0.85, 0.7], SIGMAS, SIGMAS[1:], strict=False):
        tracker.advance(shown)
        assert tracker.sigma == level and tracker.step_size == following - level
