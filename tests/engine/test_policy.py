"""The accumulate rule."""

from __future__ import annotations

from teacache.engine.policy import AccumulatedDistance
from teacache.report import Reason


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
