"""Policies: the accumulate rule, a plan made before, and none."""

from __future__ import annotations

import math

from teacache.engine.decision import Decision, PassState, largest
from teacache.engine.policy import AccumulatedDistance, EveryStep, PlannedSteps
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


def reasons(policy: AccumulatedDistance | PlannedSteps, steps: int) -> list[Reason | None]:
    return [policy.fixed_reason(step) for step in range(steps)]


def test_by_default_every_step_between_the_first_and_the_last_may_be_skipped() -> None:
    policy = AccumulatedDistance(threshold=1.0, steps=4)
    assert reasons(policy, 4) == [Reason.FIRST, None, None, Reason.LAST]
    assert policy.compare(0.5, 1000) is Reason.UNDER_THRESHOLD
    assert policy.fixed_reason(-1) is Reason.FIRST and policy.fixed_reason(7) is Reason.LAST
    turning = AccumulatedDistance(threshold=1.0, steps=4, first_steps=frozenset({2}))
    assert reasons(turning, 4) == [Reason.FIRST, None, Reason.FIRST, Reason.LAST]


def test_the_warm_up_is_computed() -> None:
    policy = AccumulatedDistance(threshold=1.0, steps=6, warmup=3)
    assert reasons(policy, 5) == [Reason.FIRST, Reason.WARMUP, Reason.WARMUP, None, None]


def test_the_range_ends_at_a_share_of_the_steps_in_the_run() -> None:
    policy = AccumulatedDistance(threshold=1.0, steps=10, start=0.25, end=0.75)
    assert policy.fixed_reason(2) is Reason.BEFORE_RANGE and policy.fixed_reason(3) is None
    assert policy.fixed_reason(7) is None and policy.fixed_reason(8) is Reason.AFTER_RANGE


def test_of_the_last_step_that_may_be_skipped_nothing_is_cached() -> None:
    whole = AccumulatedDistance(threshold=1.0, steps=5)
    assert [whole.cache_is_reusable(step) for step in range(5)] == [True, True, True, False, False]
    part = AccumulatedDistance(threshold=1.0, steps=10, end=0.5)
    assert part.cache_is_reusable(3) and not part.cache_is_reusable(4)
    longer = AccumulatedDistance(threshold=1.0, steps=5, last_step=2)
    assert longer.cache_is_reusable(0) and not longer.cache_is_reusable(1)


def test_a_cap_of_skips_holds_below_the_threshold_only() -> None:
    policy = AccumulatedDistance(threshold=0.5, steps=10, max_skip=1)
    assert policy.compare(0.6, 1) is Reason.OVER_THRESHOLD
    assert policy.compare(0.4, 0) is Reason.UNDER_THRESHOLD
    assert policy.compare(0.4, 1) is policy.compare(0.4, 2) is Reason.CAPPED


def test_a_plan_is_followed() -> None:
    policy = PlannedSteps(frozenset({0, 3}), first_steps=frozenset({0, 2}), last_step=5)
    assert reasons(policy, 7) == [
        Reason.FIRST, Reason.PLANNED_SKIP, Reason.FIRST, Reason.PLANNED,
        Reason.PLANNED_SKIP, Reason.LAST, Reason.LAST,
    ]  # fmt: skip
    started = PlannedSteps(frozenset({0}), first_steps=frozenset(), last_step=5)
    assert started.fixed_reason(0) is started.fixed_reason(-1) is Reason.FIRST
    assert started.fixed_reason(1) is Reason.PLANNED_SKIP
    assert policy.compare(0.0, 0) is Reason.OVER_THRESHOLD


def test_a_plan_caches_for_the_skips_that_follow() -> None:
    policy = PlannedSteps(frozenset({0, 1, 3, 4}), first_steps=frozenset({0}), last_step=5)
    assert [policy.cache_is_reusable(step) for step in range(6)] == [
        True, True, False, False, False, False,
    ]  # fmt: skip


def test_where_every_step_is_computed_nothing_is_cached() -> None:
    policy = EveryStep()
    assert policy.fixed_reason(3) is Reason.UNCACHED
    assert policy.compare(0.0, 0) is Reason.OVER_THRESHOLD
    assert not policy.cache_is_reusable(0)
