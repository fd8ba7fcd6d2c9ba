"""The accumulate rule."""

from __future__ import annotations

import math

from teacache.engine.decision import Decision, PassState, largest
from teacache.engine.policy import AccumulatedDistance
from teacache.report import Reason
from teacache.schedule import Schedule


def test_first_and_last_step_are_computed() -> None:
    policy = AccumulatedDistance(threshold=1.0, steps=5)
    assert [policy.fixed_reason(step) for step in range(5)] == [
        Reason.FIRST, None, None, None, Reason.LAST,
    ]  # fmt: skip


def test_the_range_is_a_share_of_the_steps() -> None:
    policy = AccumulatedDistance(threshold=1.0, steps=10, start=0.3, end=0.8)
    reasons = [policy.fixed_reason(step) for step in range(10)]
    assert reasons[1:3] == [Reason.BEFORE_RANGE] * 2
    assert reasons[3:8] == [None] * 5
    assert reasons[8] is Reason.AFTER_RANGE


def test_judging() -> None:
    policy = AccumulatedDistance(threshold=0.5, steps=10, max_skip=2)
    assert policy.compare(0.49, 1) is Reason.UNDER_THRESHOLD
    assert policy.compare(0.5, 0) is Reason.OVER_THRESHOLD
    assert policy.compare(float("nan"), 0) is Reason.OVER_THRESHOLD
    assert policy.compare(0.1, 2) is Reason.CAPPED


def test_the_first_step_after_a_turn_and_the_last_that_moves_are_computed() -> None:
    schedule = Schedule([0.0, 1.0, 0.8, 0.5, 0.2, 0.0, 0.0, 0.0])
    policy = AccumulatedDistance(
        threshold=1.0, steps=7, first_steps=schedule.first_steps, last_step=schedule.last_step
    )
    reasons = [policy.fixed_reason(step) for step in range(7)]
    assert reasons[:2] == [Reason.FIRST] * 2 and reasons[2:4] == [None] * 2
    assert reasons[4:] == [Reason.LAST] * 3
    assert policy.cache_is_reusable(2) and not policy.cache_is_reusable(3)


def test_the_largest_distance_is_nan_wherever_it_stands() -> None:
    assert largest([0.1, 0.3, 0.2]) == 0.3
    for values in ([math.nan, 1.0], [1.0, math.nan], [0.0, math.nan, 2.0]):
        assert math.isnan(largest(values))
    decision = Decision(PassState(), AccumulatedDistance(threshold=1.0, steps=9), 3)
    decision.consider(0.5)
    decision.consider(math.nan)
    assert decision.reason is Reason.OVER_THRESHOLD
