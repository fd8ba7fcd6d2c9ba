"""Where a model is split over several processes, its calls are decided by all of them together."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lone_calls import call_of, full, image, stack_input_run
from lone_runs import CPU, SIGMAS, OtherRank, run_of
from torch import nn

from teacache.engine.forward import PredictionForward, StackForward
from teacache.engine.run import Run
from teacache.families.streams import BlockArguments, FamilyMismatch
from teacache.report import Reason


def among(run: Run, rank: OtherRank) -> Run:
    """`run` in one of two processes; the other one is `rank`."""
    run.ranks = rank  # type: ignore[assignment]
    return run


# --- a whole prediction --------------------------------------------------------------------------


def predicted(rank: OtherRank, steps: int, indicator: str = "rate") -> PredictionForward:
    """The last of `steps` calls, all before it computed; before that one `rank` joins."""
    run = run_of(rel_l1_thresh=0.5, predictor="reuse", indicator="rate")
    run.strategy = replace(run.strategy, indicator=indicator)
    for sigma in SIGMAS[: steps - 1]:
        run.begin_evaluation(sigma, CPU)
        PredictionForward(run, run.decide("pass"), "key", "layout").observe(
            torch.full((1, 2), 1.0 + sigma / 10)
        )
        run.end_evaluation()
    run.begin_evaluation(SIGMAS[steps - 1], CPU)
    among(run, rank)
    return PredictionForward(run, run.decide("pass"), "key", "layout")


def test_the_largest_expected_error_of_any_process_decides() -> None:
    alone = predicted(OtherRank(), 3)
    assert alone.skipping
    rank = OtherRank(9.0)
    call = predicted(rank, 3)
    assert call._decision.reason is Reason.OVER_THRESHOLD and not call.skipping
    assert rank.asked == [[alone._decision.distance, 0.0]]


def test_a_process_without_a_value_makes_all_compute() -> None:
    rank = OtherRank(0.1)
    run = among(run_of(rel_l1_thresh=0.5, predictor="reuse", indicator="rate"), rank)
    run.begin_evaluation(SIGMAS[2], CPU)
    call = PredictionForward(run, run.decide("pass"), "key", "layout")
    assert rank.asked == [[-1.0, 1.0]] and call._decision.reason is Reason.NEW_BRANCH


def test_a_prediction_that_is_computed_anyway_is_not_agreed_on() -> None:
    rank = OtherRank(0.1)
    assert predicted(rank, 1)._decision.reason is Reason.FIRST and rank.asked == []


def test_a_prediction_that_is_planned_is_not_agreed_on() -> None:
    rank = OtherRank(9.0)
    assert predicted(rank, 3, "plan")._decision.reason is None and rank.asked == []


# --- the block stack -----------------------------------------------------------------------------


def test_the_largest_change_of_any_process_decides() -> None:
    for distance, reason in ((0.2, Reason.UNDER_THRESHOLD), (0.9, Reason.OVER_THRESHOLD)):
        run, rank = stack_input_run(), OtherRank(distance)
        call_of(run, 1.0, image(1.0))
        among(run, rank)
        forward, _ = call_of(run, 0.8, image(1.1))
        assert rank.asked == [[pytest.approx(0.1), 0.0]]
        assert run.report.records[-1].reason is reason
        assert forward.skipping == (reason is Reason.UNDER_THRESHOLD)
        assert run.report.records[-1].distance == distance


def test_a_branch_that_is_new_here_is_computed_everywhere() -> None:
    rank = OtherRank(0.1)
    run = among(stack_input_run(), rank)
    call_of(run, 0.8, image(1.0))
    assert rank.asked == [[-1.0, 1.0]]


def test_a_stack_that_is_computed_anyway_is_not_agreed_on() -> None:
    rank = OtherRank(0.1)
    call_of(among(stack_input_run(), rank), 1.0, image(1.0))
    assert rank.asked == []


def test_a_process_that_cannot_read_its_model_makes_all_compute() -> None:
    run, rank = stack_input_run(), OtherRank(0.1)
    call_of(run, 1.0, image(1.0))
    among(run, rank).begin_evaluation(0.8, CPU)
    forward = StackForward(run, run.decide("pass"), ("cond",), "layout")

    def unreadable(*_: object) -> None:
        raise FamilyMismatch from ValueError("no norm")

    run.read_stack_input = unreadable  # type: ignore[assignment]
    with pytest.raises(FamilyMismatch):
        forward.on_stack_input(nn.Identity(), BlockArguments((), {}), image(1.0))
    assert rank.asked == [[-1.0, 1.0]] and forward._decision.reason is Reason.UNCACHED


def test_a_model_that_cannot_be_read_in_a_computed_step_is_not_agreed_on() -> None:
    rank = OtherRank(0.1)
    run = among(stack_input_run(), rank)
    run.begin_evaluation(1.0, CPU)
    forward = StackForward(run, run.decide("pass"), ("cond",), "layout")

    def unreadable(*_: object) -> None:
        raise FamilyMismatch from ValueError("no tokens")

    forward._decide_by_input = unreadable  # type: ignore[method-assign, assignment]
    with pytest.raises(FamilyMismatch):
        forward.on_stack_input(nn.Identity(), BlockArguments((), {}), image(1.0))
    assert rank.asked == []


def test_where_another_process_has_no_memory_for_its_prediction_all_compute() -> None:
    run, rank = stack_input_run(), OtherRank()
    call_of(run, 1.0, image(1.0))
    run.begin_evaluation(0.8, CPU)
    forward = StackForward(run, run.decide("pass"), ("cond",), "layout")
    among(run, rank)
    rank.failing = True
    forward.on_stack_input(nn.Identity(), BlockArguments((), {}), image(1.1))
    assert rank.conditions == [False], "this one has its own"
    assert forward.skipping is False and forward._decision.reason is Reason.UNCACHED
    assert not run.gave_up
    forward._decision.require_compute(Reason.UNCACHED)  # no call was skipped: not repeated
    forward.on_stack_output(image(21.1))
    run.end_evaluation()
    assert not run.report.records[-1].skipped
    rank.failing = False
    assert torch.allclose(call_of(run, 0.6, image(1.1))[1], image(21.1)), "cached anew"


def test_a_process_without_memory_for_its_prediction_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, rank = stack_input_run(), OtherRank()
    call_of(run, 1.0, image(1.0))
    among(run, rank).begin_evaluation(0.8, CPU)
    forward = StackForward(run, run.decide("pass"), ("cond",), "layout")
    monkeypatch.setattr(torch, "empty_like", full)
    forward.on_stack_input(nn.Identity(), BlockArguments((), {}), image(1.1))
    assert rank.conditions == [False, True], "at the beginning, and for the prediction"
    assert run.gave_up and forward._decision.reason is Reason.UNCACHED
