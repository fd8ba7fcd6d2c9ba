"""What happens in one call of the model's block stack, on runs without a host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lone_calls import Observer, call_of, full, image, stack_input_run
from lone_runs import CPU, SIGMAS, rate_run, run_of, timestep_settings
from torch import nn

from teacache.config import FORCE_COMPUTE
from teacache.engine.decision import RecomputePass
from teacache.engine.forward import (
    StackForward,
)
from teacache.engine.run import Run
from teacache.engine.strategy import SamplerTraits
from teacache.families.streams import BlockArguments, FamilyMismatch
from teacache.report import Reason

HEUN = SamplerTraits("heun")


# --- the block stack -----------------------------------------------------------------------------


def test_a_skipped_stack_adds_what_it_added_before() -> None:
    run = stack_input_run()
    first, _ = call_of(run, 1.0, image(1.0))
    assert not first.skipping and first.image_tokens == 4
    second, out = call_of(run, 0.8, image(1.1))
    assert second.skipping and torch.equal(out, image(11.1))
    record = run.report.records[-1]
    assert record.distance == pytest.approx(0.1) and record.skipped


def test_every_branch_of_a_batch_has_its_own_residual() -> None:
    run = stack_input_run()
    run.begin_evaluation(1.0, CPU)
    forward = StackForward(run, run.decide("pass"), ("cond", "uncond"), "layout")
    given = image(1.0, 2.0, 3.0, 4.0)
    forward.on_stack_input(nn.Identity(), BlockArguments((), {}), given)
    forward.on_stack_output(given + image(10.0, 20.0, 30.0, 40.0))
    run.end_evaluation()
    _, out = call_of(run, 0.8, image(1.0, 2.0), ("cond",))
    assert torch.equal(out, image(11.0, 22.0))
    swapped, out = call_of(run, 0.6, image(3.0, 4.0, 1.0, 2.0), ("uncond", "cond"))
    assert swapped.skipping and torch.equal(out, image(33.0, 44.0, 11.0, 22.0))


def test_the_largest_change_of_any_row_decides() -> None:
    run = stack_input_run(9.0)
    keys = ("cond", "uncond")
    call_of(run, 1.0, image(1.0, 1.0), keys)
    for sigma, rows, change in ((0.8, (1.1, 1.4), 0.4), (0.6, (1.65, 1.4), 0.5)):
        call_of(run, sigma, image(*rows), keys)
        assert run.report.records[-1].distance == pytest.approx(change)


def test_a_change_over_the_threshold_is_computed_and_cached_anew() -> None:
    run = stack_input_run()
    call_of(run, 1.0, image(1.0))
    computed, _ = call_of(run, 0.8, image(2.0), add=20.0)
    assert not computed.skipping
    assert run.report.records[-1].distance == pytest.approx(1.0)
    _, out = call_of(run, 0.6, image(2.0))
    assert torch.equal(out, image(22.0))


def test_other_shapes_types_and_layouts_are_computed() -> None:
    changed = {
        "tokens": (image(1.0, tokens=5), "layout"),
        "rows": (image(1.0, 1.0), "layout"),
        "type": (image(1.0).double(), "layout"),
        "layout": (image(1.0), "other"),
    }
    for given, layout in changed.values():
        run = stack_input_run()
        call_of(run, 1.0, image(1.0))
        forward, _ = call_of(run, 0.8, given, layout=layout)
        assert not forward.skipping and run.report.records[-1].reason is Reason.MISMATCH


def test_residuals_and_changes_are_observed() -> None:
    observer = Observer()
    run = stack_input_run(1e-9, observer=observer)
    keys = ("cond", "uncond")
    call_of(run, 1.0, image(1.0, 2.0), keys, add=10.0)
    assert observer.changes == []
    call_of(run, 0.8, image(1.5, 2.0), keys, add=20.0)
    assert [(step, key) for step, key, _ in observer.changes] == [(1, "cond"), (1, "uncond")]
    assert [change for _, _, change in observer.changes] == pytest.approx([0.5, 0.0])
    assert [(step, key) for step, key, _ in observer.residuals] == [
        (0, "cond"), (0, "uncond"), (1, "cond"), (1, "uncond"),
    ]  # fmt: skip
    assert torch.equal(observer.residuals[-1][2], image(20.0))


def test_the_change_is_observed_where_the_step_is_computed_anyway() -> None:
    observer = Observer()
    run = stack_input_run(observer=observer)
    call_of(run, 0.4, image(1.0))
    call_of(run, 0.2, image(1.5))
    assert run.report.records[-1].reason is Reason.LAST
    assert observer.changes == []  # nothing is kept for the last step
    seen = Observer()
    run = stack_input_run(observer=seen)
    call_of(run, 0.8, image(1.0, 1.0))
    call_of(run, 0.6, image(1.5, 1.2), layout="other")
    assert seen.changes == [], "a branch that starts afresh has nothing to compare"


def test_nothing_is_compared_where_nobody_wants_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    run = stack_input_run()
    call_of(run, 1.0, image(1.0))
    run.begin_evaluation(0.8, CPU)
    decision = run.decide("pass")
    decision.require_compute(Reason.UNCACHED)

    def compared(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr("teacache.engine.forward.relative_change", compared)
    forward = StackForward(run, decision, ("cond",), "layout")
    forward.on_stack_input(nn.Identity(), BlockArguments((), {}), image(1.0))
    assert not forward.skipping


def test_one_new_branch_in_a_batch_is_no_reason_to_compare_the_others() -> None:
    run = stack_input_run()
    call_of(run, 1.0, image(1.0))
    call_of(run, 0.8, image(1.0, 1.0), ("cond", "uncond"))
    record = run.report.records[-1]
    assert record.reason is Reason.NEW_BRANCH and record.distance is None


def test_what_no_step_can_use_is_not_copied() -> None:
    run = stack_input_run()
    forward, _ = call_of(run, 0.4, image(1.0))
    assert run.state.bytes_held == 0 and forward._stack_input is None


def test_while_measuring_blocks_pass_their_inputs_through() -> None:
    observer = Observer()
    run = stack_input_run(observer=observer)
    forward, out = call_of(run, 1.0, image(1.0), measure_only=True)
    assert forward.skipping and torch.equal(out, image(1.0))
    assert run.state.bytes_held == 0 and observer.residuals == []


# --- the timestep --------------------------------------------------------------------------------


def timestep_run(observer: Any = None) -> Run:
    """A run whose indicator is a timestep embedding that changes as the level does."""
    run = run_of(settings=timestep_settings(), observer=observer)
    run.prepare_timestep_changes(lambda levels: torch.tensor(levels)[:, None])
    return run


def test_the_timesteps_change_decides() -> None:
    run = timestep_run()
    call_of(run, 1.0, image(1.0))
    _, out = call_of(run, 0.8, image(5.0))
    assert run.report.records[-1].distance == pytest.approx(2.0 * 0.2)
    assert torch.equal(out, image(15.0))


def test_without_a_level_before_it_the_step_is_computed() -> None:
    run = timestep_run()
    run.begin_evaluation(0.8, CPU)
    decision = run.decide("pass")
    decision.state.branches["cond"] = state = run.new_branch(
        (("layout", torch.Size([4, 2]), 1, torch.float32), run.segment)
    )
    state.predictor.observe(1.0, image(1.0))
    forward = StackForward(run, decision, ("cond",), "layout")
    forward.on_stack_input(nn.Identity(), BlockArguments((), {}), image(1.0))
    assert decision.distance == FORCE_COMPUTE and not forward.skipping


def test_the_timesteps_change_is_observed_for_every_branch() -> None:
    observer = Observer()
    run = timestep_run(observer)
    for sigma in SIGMAS[:2]:
        call_of(run, sigma, image(1.0, 1.0), ("cond", "uncond"))
    assert observer.changes == [
        (1, "cond", pytest.approx(0.2)), (1, "uncond", pytest.approx(0.2)),
    ]  # fmt: skip


# --- a model that does not match, and no memory --------------------------------------------------


def began(run: Run, sigma: float = 0.8) -> StackForward:
    run.begin_evaluation(sigma, CPU)
    return StackForward(run, run.decide("pass"), ("cond",), "layout")


def test_a_mismatch_turns_the_cache_off() -> None:
    run = stack_input_run()
    forward = began(run)
    forward.on_stack_input(nn.Identity(), BlockArguments((), {}), image(1.0))
    try:
        raise FamilyMismatch from ValueError("no such block")
    except FamilyMismatch as mismatch:
        forward.give_up(mismatch)
    assert forward.image_tokens == 0 and not forward.skipping
    assert run.gave_up and "no such block" in run.report.warnings[0]
    forward.on_stack_output(image(1.0))
    run.end_evaluation()
    assert run.state.of_pass(("pass", 0)).branches["cond"].predictor.sigmas == []
    assert not call_of(run, 0.6, image(1.0))[0].skipping
    assert run.report.records[-1].reason is Reason.UNCACHED


def test_a_mismatch_in_a_step_that_was_to_be_skipped_computes_it() -> None:
    run = stack_input_run()
    forward = began(run)
    forward._decision.reason = Reason.UNDER_THRESHOLD
    try:
        raise FamilyMismatch from ValueError("no such block")
    except FamilyMismatch as mismatch:
        forward.give_up(mismatch)
    assert forward._decision.reason is Reason.UNCACHED


@pytest.mark.parametrize("indicator", ["rate", "stack_input"])
def test_after_giving_up_nothing_is_read_from_the_model(indicator: str) -> None:
    run = stack_input_run() if indicator == "stack_input" else rate_run()
    run.give_up("no reason")

    def read(*_: Any) -> Any:
        raise AssertionError

    run.read_stack_input = read  # type: ignore[assignment]
    forward, _ = call_of(run, 0.8, image(1.0))
    assert not forward.skipping and run.state.bytes_held == 0


@pytest.mark.parametrize("where", ["measure", "copy", "predict", "residual"])
def test_without_memory_the_stack_is_computed(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stack_input_run() if where != "copy" else rate_run()
    if where == "predict":
        call_of(run, 1.0, image(1.0))
    forward = began(run)
    given = image(1.0)
    patched: dict[str, Callable[[], None]] = {
        "measure": lambda: setattr(run, "read_stack_input", full),
        "copy": lambda: monkeypatch.setattr(torch.Tensor, "clone", full),
        "predict": lambda: monkeypatch.setattr(torch, "empty_like", full),
        "residual": lambda: monkeypatch.setattr("teacache.engine.forward.cache_value", full),
    }
    patched[where]()
    forward.on_stack_input(nn.Identity(), BlockArguments((), {}), given)
    assert not forward.skipping
    forward.on_stack_output(given + 10.0)
    monkeypatch.undo()
    run.end_evaluation()
    assert run.gave_up and run.state.bytes_held == 0
    assert not run.report.records[-1].skipped
    assert torch.equal(given, image(1.0))


def test_a_skipped_call_cannot_be_followed_by_computing_in_the_same_pass() -> None:
    run = stack_input_run()
    call_of(run, 1.0, image(1.0))
    forward = began(run)
    forward.on_stack_input(nn.Identity(), BlockArguments((), {}), image(1.0))
    assert forward.skipping
    with pytest.raises(RecomputePass):
        forward._decision.require_compute(Reason.MISMATCH)


def test_the_output_is_in_the_type_of_the_input() -> None:
    run = stack_input_run()
    call_of(run, 1.0, image(1.0))
    state = run.state.of_pass(("pass", 0)).branches["cond"]
    state.predictor.observe(1.0, image(10.0).double())
    _, out = call_of(run, 0.8, image(1.0))
    assert out.dtype == torch.float32 and torch.equal(out, image(11.0))
