"""One decision for all branches of a pass, and what a run remembers between evaluations."""

from __future__ import annotations

import math

import pytest
import torch

from teacache.engine.decision import (
    BranchState,
    Decision,
    PassState,
    RecomputeEvaluation,
    RecomputePass,
    RunState,
)
from teacache.engine.device import DeviceReader
from teacache.engine.indicators import ErrorRate
from teacache.engine.policy import AccumulatedDistance, PlannedSteps, Policy
from teacache.engine.predictors import make_predictor
from teacache.report import Reason

THRESHOLD = AccumulatedDistance(threshold=1.0, steps=9)


def decision(
    state: PassState | None = None, policy: Policy = THRESHOLD, step: int = 3, **more: object
) -> Decision:
    return Decision(PassState() if state is None else state, policy, step, **more)


def branch(layout: str = "layout") -> BranchState:
    return BranchState(layout, make_predictor("reuse"), ErrorRate(DeviceReader()))


# --- what decides --------------------------------------------------------------------------------


def test_a_new_decision_waits_for_a_distance() -> None:
    made = decision(PassState(accumulated=0.3))
    assert made.reason is None and made.needs_distance and not made.skipping
    assert made.distance is None and made.accumulated == 0.3
    assert made.called == set() and made.mixed is False


@pytest.mark.parametrize("distances", [(0.1, 0.4), (0.4, 0.1), (0.4, 0.1, 0.2)])
def test_of_branches_in_separate_calls_the_largest_distance_counts(
    distances: tuple[float, ...],
) -> None:
    made = decision(PassState(accumulated=0.5))
    for distance in distances:
        made.consider(distance)
    assert made.distance == 0.4
    assert made.accumulated == pytest.approx(0.9)
    assert made.reason is Reason.UNDER_THRESHOLD and made.skipping and made.needs_distance


def test_a_later_branch_over_the_threshold_computes() -> None:
    made = decision()
    made.consider(0.4)
    made.consider(1.2)
    assert made.reason is Reason.OVER_THRESHOLD and not made.skipping and not made.needs_distance
    assert made.distance == 1.2


def test_a_distance_after_the_decision_to_compute_changes_nothing() -> None:
    made = decision()
    made.require_compute(Reason.MISMATCH)
    made.consider(0.1)
    assert made.reason is Reason.MISMATCH and made.distance is None
    made.require_compute(Reason.NEW_BRANCH)
    assert made.reason is Reason.MISMATCH, "the first reason stays"


def test_the_distance_is_added_to_what_has_accumulated() -> None:
    state = PassState(accumulated=0.8)
    made = decision(state)
    made.consider(0.3)
    assert made.reason is Reason.OVER_THRESHOLD
    assert made.accumulated == pytest.approx(1.1)
    assert state.accumulated == 0.8, "the state changes when the evaluation ends"


def test_the_number_of_skips_in_a_row_is_limited() -> None:
    capped = AccumulatedDistance(threshold=1.0, steps=9, max_skip=2)
    for skipped, reason in ((1, Reason.UNDER_THRESHOLD), (2, Reason.CAPPED)):
        made = decision(PassState(skipped_in_a_row=skipped), capped)
        made.consider(0.1)
        assert made.reason is reason


def test_a_step_with_a_fixed_reason_needs_no_distance() -> None:
    made = decision(step=0)
    made.consider(0.1)
    assert made.reason is Reason.FIRST and made.distance is None


def test_a_planned_skip_can_still_be_computed() -> None:
    planned = PlannedSteps(frozenset({0}), frozenset({0}), 8)
    made = decision(policy=planned)
    assert made.skipping and made.needs_distance
    made.require_compute(Reason.MISMATCH)
    assert made.reason is Reason.MISMATCH


# --- a branch that computes after another was skipped --------------------------------------------


def test_the_pass_is_repeated_where_the_host_can() -> None:
    made = decision()
    made.consider(0.1)
    made.mark_call_skipped()
    with pytest.raises(RecomputePass):
        made.consider(2.0)
    assert made.reason is Reason.OVER_THRESHOLD and not made.mixed
    made.restart()
    made.require_compute(Reason.OVER_THRESHOLD)  # nothing is skipped any more: no second repeat
    assert made.reason is Reason.OVER_THRESHOLD and not made.mixed


def test_the_rest_is_computed_where_the_host_cannot_repeat() -> None:
    made = decision(can_repeat=False)
    made.consider(0.1)
    made.mark_call_skipped()
    made.consider(2.0)
    assert made.mixed and made.reason is Reason.OVER_THRESHOLD


def test_nothing_is_mixed_while_no_call_was_skipped() -> None:
    made = decision(can_repeat=False)
    made.consider(0.1)
    made.consider(2.0)
    assert made.mixed is False


def test_a_pass_takes_over_that_an_earlier_one_is_computed() -> None:
    earlier, skipped = decision(), decision()
    earlier.require_compute(Reason.MISMATCH)
    skipped.consider(0.1)
    assert decision(earlier=[earlier]).reason is Reason.MISMATCH
    assert decision(earlier=[skipped]).reason is None
    assert decision(earlier=[decision()]).reason is None
    assert decision(step=0, earlier=[earlier]).reason is Reason.FIRST


def test_after_an_earlier_pass_was_skipped_computing_repeats_the_evaluation() -> None:
    skipped = decision()
    skipped.consider(0.1)
    made = decision(earlier=[skipped])
    with pytest.raises(RecomputeEvaluation) as raised:
        made.consider(2.0)
    assert raised.value.reason is Reason.OVER_THRESHOLD
    assert str(raised.value) == "over threshold"


# --- repeated branches ---------------------------------------------------------------------------


def test_a_branch_that_is_called_twice_is_noticed() -> None:
    made = decision()
    assert not made.repeats(["cond"])
    assert not made.repeats(["uncond"])
    assert made.repeats(["cond"])
    made.restart()
    assert not made.repeats(["cond", "uncond"])
    assert decision().repeats(["cond", "cond"])


# --- the end of an evaluation --------------------------------------------------------------------


def test_a_skip_carries_its_distance_on() -> None:
    state = PassState(accumulated=0.2, skipped_in_a_row=1)
    made = decision(state)
    made.consider(0.3)
    made.finish(0.7)
    assert state.accumulated == pytest.approx(0.5)
    assert state.skipped_in_a_row == 2 and state.sigma == 0.7


def test_a_computed_evaluation_starts_afresh_without_the_branches_it_did_not_call() -> None:
    kept, left = branch(), branch()
    state = PassState({"kept": kept, "left": left}, accumulated=0.2, skipped_in_a_row=1)
    made = decision(state)
    made.called.add("kept")
    made.consider(2.0)
    made.finish(0.7)
    assert state.accumulated == 0.0 and state.skipped_in_a_row == 0 and state.sigma == 0.7
    assert state.branches == {"kept": kept}


def test_a_skip_forgets_no_branch() -> None:
    state = PassState({"cond": branch(), "uncond": branch()})
    made = decision(state)
    made.called.add("cond")
    made.consider(0.1)
    made.finish(0.7)
    assert set(state.branches) == {"cond", "uncond"}


def test_a_mixed_decision_stays_over_the_threshold() -> None:
    """So that the next evaluation computes every branch."""
    state = PassState({"cond": branch(), "uncond": branch()})
    made = decision(state, can_repeat=False)
    made.called.add("cond")
    made.consider(0.1)
    made.mark_call_skipped()
    made.consider(2.0)
    made.finish(0.7)
    assert state.accumulated == 2.0 and state.skipped_in_a_row == 1
    assert set(state.branches) == {"cond", "uncond"}


# --- what a run remembers ------------------------------------------------------------------------


def test_each_pass_has_a_state_of_its_own() -> None:
    run = RunState()
    first, second = run.of_pass("one"), run.of_pass("two")
    assert first is run.of_pass("one") and first is not second
    assert first.accumulated == 0.0 and first.skipped_in_a_row == 0
    assert first.sigma is None
    assert first.branches == {} and first.branches is not second.branches


def test_a_new_branch_has_skipped_nothing() -> None:
    first, second = branch(), branch()
    assert first.skipped == [] and first.skipped is not second.skipped
    assert first.indicator_input is None


def test_what_the_indicator_read_counts_from_the_end_of_the_evaluation_on() -> None:
    run, state = RunState(), branch()
    run.defer_indicator_input(state, torch.ones(2))
    assert state.indicator_input is None
    run.commit()
    assert state.indicator_input is not None and torch.equal(state.indicator_input, torch.ones(2))
    state.indicator_input = None
    run.commit()
    assert state.indicator_input is None, "applied once only"


def test_an_evaluation_that_is_repeated_leaves_nothing_of_the_first_try() -> None:
    run, state = RunState(), branch()
    run.defer_indicator_input(state, torch.ones(2))
    run.discard()
    run.commit()
    assert state.indicator_input is None


def held() -> tuple[RunState, PassState]:
    """A run that holds 2 + 3 + 4 floats, in one branch."""
    run = RunState()
    state = run.of_pass("pass")
    state.accumulated = 0.5
    state.branches["cond"] = cond = branch()
    cond.followed = torch.zeros(2)
    cond.indicator_input = torch.zeros(3)
    cond.predictor.observe(1.0, torch.zeros(4))
    return run, state


def test_held_bytes_are_those_of_all_tensors() -> None:
    run, state = held()
    assert run.bytes_held == 4 * (2 + 3 + 4)
    state.branches["cond"].followed = None
    state.branches["cond"].indicator_input = None
    assert run.bytes_held == 4 * 4


def test_releasing_frees_the_tensors_and_keeps_the_count_of_each_pass() -> None:
    run, state = held()
    cond = state.branches["cond"]
    run.defer_indicator_input(cond, torch.ones(2))
    run.release()
    assert run.bytes_held == 0
    run.commit()
    assert state.branches == {} and torch.equal(cond.indicator_input, torch.zeros(3))
    assert run.of_pass("pass") is state and state.accumulated == 0.5


def test_a_distance_that_is_no_number_is_never_skipped() -> None:
    made = decision()
    made.consider(0.5)
    made.consider(math.nan)
    assert made.reason is Reason.OVER_THRESHOLD
