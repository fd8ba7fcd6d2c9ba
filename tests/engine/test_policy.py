"""The accumulate rule, and which step an evaluation belongs to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from teacache.engine.policy import AccumulatedDistance, locate_step
from teacache.report import Reason

SIGMAS = [1.0, 0.8, 0.6, 0.4, 0.2, 0.0]


def test_first_and_last_step_are_computed() -> None:
    policy = AccumulatedDistance(threshold=1.0, steps=5)
    assert [policy.settled(step) for step in range(5)] == [
        Reason.FIRST, None, None, None, Reason.LAST,
    ]  # fmt: skip


def test_the_range_is_a_share_of_the_steps() -> None:
    policy = AccumulatedDistance(threshold=1.0, steps=10, start=0.3, end=0.8)
    reasons = [policy.settled(step) for step in range(10)]
    assert reasons[1:3] == [Reason.BEFORE_RANGE] * 2
    assert reasons[3:8] == [None] * 5
    assert reasons[8] is Reason.AFTER_RANGE


def test_judging() -> None:
    policy = AccumulatedDistance(threshold=0.5, steps=10, max_skip=2)
    assert policy.judge(0.49, 1) is Reason.UNDER_THRESHOLD
    assert policy.judge(0.5, 0) is Reason.OVER_THRESHOLD
    assert policy.judge(float("nan"), 0) is Reason.OVER_THRESHOLD
    assert policy.judge(0.1, 2) is Reason.CAPPED


def test_a_heun_corrector_belongs_to_the_step_of_its_level() -> None:
    steps, current = [], 0
    for sigma in (1.0, 0.8, 0.8, 0.6, 0.6, 0.4):
        current = locate_step(sigma, SIGMAS, current)
        steps.append(current)
    assert steps == [0, 1, 1, 2, 2, 3]


def test_a_level_between_two_belongs_to_the_step_that_spans_it() -> None:
    assert locate_step(0.7, SIGMAS, 1) == 1
    assert locate_step(0.1, SIGMAS, 3) == 4


def test_a_schedule_that_rises_again_keeps_its_place() -> None:
    sigmas = [1.0, 0.5, 0.8, 0.5, 0.2, 0.0]
    steps, current = [], 0
    for sigma in sigmas[:-1]:
        current = locate_step(sigma, sigmas, current if sigma != 0.5 or not steps else current + 1)
        steps.append(current)
    assert steps == [0, 1, 2, 3, 4]


@given(
    st.lists(st.floats(0.01, 100), min_size=1, max_size=40, unique=True),
    st.data(),
)
def test_a_level_of_a_falling_schedule_is_found_from_anywhere(levels: list[float], data) -> None:
    sigmas = [*sorted(levels, reverse=True), 0.0]
    distinct = [s for i, s in enumerate(sigmas[:-1]) if i == 0 or sigmas[i - 1] > s * 1.001]
    sigma = data.draw(st.sampled_from(distinct))
    current = data.draw(st.integers(0, len(levels) - 1))
    found = locate_step(sigma, [*distinct, 0.0], min(current, len(distinct) - 1))
    assert distinct[found] == sigma
