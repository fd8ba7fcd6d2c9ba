"""One run without a host: several processes, its records, and what a forward asks it for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lone_runs import CPU, SIGMAS, OtherRank, evaluating, run_of, timestep_settings

from teacache.config import FORCE_COMPUTE
from teacache.engine.decision import MIXED, Decision
from teacache.engine.forward import branch_state
from teacache.families.streams import FamilyMismatch
from teacache.report import Reason

# --- several processes ---------------------------------------------------------------------------


def agreed(rank: OtherRank, distance: float | None = None, failed: bool = False) -> Decision:
    """A decision on `distance` after the processes have agreed; 0.2 has accumulated before."""
    run = evaluating()
    run.ranks = rank  # type: ignore[assignment]
    decision = run.decide("pass")
    decision.state.accumulated = decision.accumulated = 0.2
    if distance is not None:
        decision.consider(distance)
    run.agree(decision, asked=True, failed=failed)
    return decision


def test_the_largest_distance_of_any_process_decides_for_all() -> None:
    rank = OtherRank(0.2)
    decision = agreed(rank, 0.1)
    assert rank.asked == [[0.1, 0.0]] and decision.reason is Reason.UNDER_THRESHOLD
    assert (decision.distance, decision.accumulated) == (0.2, pytest.approx(0.4))
    assert agreed(OtherRank(0.05), 0.1).distance == 0.1
    assert agreed(OtherRank(0.7), 0.1).reason is Reason.OVER_THRESHOLD
    over = agreed(OtherRank(0.9, computing=True), 0.7)
    assert over.reason is Reason.OVER_THRESHOLD
    assert (over.distance, over.accumulated) == (0.9, pytest.approx(1.1))


def test_a_process_that_must_compute_makes_all_compute() -> None:
    assert agreed(OtherRank(computing=True), 0.1).reason is Reason.UNCACHED
    failing = OtherRank(0.1)
    assert agreed(failing, 0.1, failed=True).reason is Reason.UNCACHED
    assert failing.asked == [[0.1, 1.0]]


def test_a_process_that_has_read_nothing_says_so() -> None:
    rank = OtherRank()
    decision = agreed(rank)
    assert rank.asked == [[-1.0, 0.0]] and decision.distance is None and decision.reason is None
    assert decision.accumulated == 0.2
    zero = agreed(OtherRank(0.0))
    assert zero.distance == 0.0 and zero.reason is Reason.UNDER_THRESHOLD


def test_where_no_distance_was_asked_for_nothing_is_agreed() -> None:
    run, rank = evaluating(), OtherRank(0.9)
    run.ranks = rank  # type: ignore[assignment]
    run.agree(run.decide("pass"), asked=False)
    assert rank.asked == []
    alone = evaluating()
    decision = alone.decide("pass")
    alone.agree(decision, asked=True)
    assert alone.ranks is None and decision.reason is None
    assert alone.any_rank(True) is True and alone.any_rank(False) is False


def test_the_cache_ends_in_all_processes_together() -> None:
    run = evaluating(1)
    branch_state(run, run.decide("pass"), "cond", "layout").predictor.observe(1.0, torch.ones(3))
    run.end_evaluation()
    run.ranks = OtherRank(failing=True)  # type: ignore[assignment]
    assert run.any_rank(False)
    run.begin_evaluation(0.6, CPU)
    assert run.gave_up and run.ranks is None and run.state.bytes_held == 0
    assert "another process" in run.report.warnings[0]


def test_a_process_that_ends_the_cache_tells_the_others() -> None:
    run, rank = evaluating(1), OtherRank()
    run.ranks = rank  # type: ignore[assignment]
    run.begin_evaluation(0.6, CPU)
    assert run.ranks is rank and not run.gave_up
    run.give_up("no reason")
    run.begin_evaluation(0.4, CPU)
    assert rank.conditions == [False, True] and run.ranks is None


# --- the record of an evaluation -----------------------------------------------------------------


def recorded(*decide: Callable[[Decision], None]) -> Any:
    """The record of an evaluation with one pass for each of `decide`."""
    run = evaluating()
    for place, make in enumerate(decide):
        make(run.decide(place))
    run.end_evaluation()
    return run.report.records[-1]


def skip(decision: Decision) -> None:
    decision.consider(0.1)


def compute(decision: Decision) -> None:
    decision.consider(0.7)


def test_an_evaluation_is_skipped_where_every_pass_is() -> None:
    record = recorded(skip, skip)
    assert record.skipped is True and record.reason is Reason.UNDER_THRESHOLD
    assert (record.step, record.sigma) == (2, 0.6)
    assert (record.distance, record.accumulated) == (0.1, 0.1)


@pytest.mark.parametrize("passes", [(skip, compute), (compute, skip)])
def test_a_pass_that_is_computed_is_the_one_shown(passes: Any) -> None:
    record = recorded(*passes)
    assert record.skipped is False and record.reason is Reason.OVER_THRESHOLD
    assert (record.distance, record.accumulated) == (0.7, 0.7)


def test_an_evaluation_without_a_decision_is_not_cacheable() -> None:
    for record in (recorded(), recorded(lambda decision: None)):
        assert record.skipped is False and record.reason is Reason.UNCACHED
        assert (record.distance, record.accumulated) == (None, 0.0)


def test_a_mixed_evaluation_is_reported() -> None:
    run = evaluating()
    decision = run.decide("pass", can_repeat=False)
    decision.consider(0.1)
    decision.mark_call_skipped()
    decision.consider(9.0)
    run.end_evaluation()
    assert run.report.warnings == [MIXED] and "branch" in MIXED
    assert decision.state.accumulated == 9.0 and decision.state.sigma == 0.6


def test_the_most_that_was_held_is_reported() -> None:
    run = evaluating(1)
    for sigma, held in ((0.8, 5), (0.6, 2)):
        decision = run.decide("pass")
        branch = branch_state(run, decision, "cond", held)
        branch.predictor.observe(sigma, torch.ones(held))
        run.end_evaluation()
        run.begin_evaluation(sigma - 0.2, CPU)
    assert run.report.bytes_held == 4 * 5


def test_an_evaluation_is_recorded_once() -> None:
    run = evaluating(1)
    run.decide("pass").consider(0.1)
    run.end_evaluation()
    run.end_evaluation()
    assert [record.skipped for record in run.report.records] == [True, False]


# --- what a forward asks for ---------------------------------------------------------------------


def test_values_are_extrapolated_within_one_segment() -> None:
    turning = [0.2, 1.0, 0.6, 0.2, 0.0]
    reuse, line = run_of(turning, predictor="reuse"), run_of(turning, predictor="linear")
    for run in (reuse, line):
        run.begin_evaluation(1.0, CPU, 1)
    assert (reuse.segment, line.segment) == (0, 1)


def test_what_no_later_step_can_use_is_not_cached() -> None:
    assert evaluating(2).cache_is_reusable
    assert not evaluating(3).cache_is_reusable


def test_a_new_branch_predicts_as_the_strategy_says() -> None:
    branch = evaluating(predictor="linear").new_branch("layout")
    assert type(branch.predictor).__name__ == "Linear" and branch.layout == "layout"
    assert branch.predictor.sigmas == [] and branch.indicator_input is None


class Embedding:
    """A timestep embedding that notes which levels it is asked for."""

    def __init__(self) -> None:
        self.asked: list[list[float]] = []

    def __call__(self, levels: list[float]) -> torch.Tensor:
        self.asked.append(levels)
        return torch.tensor(levels)[:, None] + torch.zeros(1, 2)


@pytest.mark.parametrize("ahead", [True, False])
def test_a_timestep_indicator_follows_from_the_schedule(ahead: bool) -> None:
    run, embedding = run_of(settings=timestep_settings()), Embedding()
    run.prepare_timestep_changes(embedding, ahead)
    assert embedding.asked == ([SIGMAS[:-1]] if ahead else [])
    run.prepare_timestep_changes(Embedding(), ahead)
    run.begin_evaluation(0.8, CPU)
    assert run.timestep_change(1.0) == pytest.approx(0.2)
    assert run.timestep_distance(1.0) == pytest.approx(2.0 * 0.2)
    assert run.timestep_distance(None) == FORCE_COMPUTE
    assert embedding.asked == ([SIGMAS[:-1]] if ahead else [[1.0, 0.8]])


def test_levels_are_embedded_ahead_unless_the_host_says_otherwise() -> None:
    run, embedding = run_of(settings=timestep_settings()), Embedding()
    run.prepare_timestep_changes(embedding)
    assert embedding.asked == [SIGMAS[:-1]]


def test_no_level_is_embedded_where_no_profile_reads_the_timestep() -> None:
    for run in (run_of(), run_of(mode="faithful")):
        run.prepare_timestep_changes(Embedding())
        assert run._timestep_changes is None


def test_an_embedding_that_cannot_be_called_is_a_mismatch() -> None:
    def missing(levels: list[float]) -> torch.Tensor:
        raise AttributeError("time_embed")

    with pytest.raises(FamilyMismatch, match="time_embed"):
        run_of(settings=timestep_settings()).prepare_timestep_changes(missing)


def test_the_profile_rescales_the_change() -> None:
    assert run_of(settings=timestep_settings()).distance(0.1) == pytest.approx(0.2)


class Elsewhere:
    """A tensor on another device."""

    device = torch.device("meta")

    def to(self, device: str) -> str:
        return device


def test_cached_tensors_are_moved_where_the_user_wants_them() -> None:
    tensor: Any = Elsewhere()
    assert run_of(cache_device="cpu").to_cache_device(tensor) == "cpu"
    assert run_of(cache_device="device").to_cache_device(tensor) is tensor
