"""What happens in one call of the model, on runs without a host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from lone_calls import Observer, call_of, first_block_run, full, image, stack_input_run
from lone_runs import CPU, EULER, SIGMAS, run_of, timestep_settings
from torch import nn

from teacache.config import FORCE_COMPUTE
from teacache.engine.decision import BranchState, Decision, RecomputePass
from teacache.engine.device import DeferredScalar
from teacache.engine.forward import (
    PredictionForward,
    StackForward,
    branch_state,
    cache_value,
    decide_by_error_rate,
)
from teacache.engine.regions import WHOLE, Regions
from teacache.engine.run import Run
from teacache.engine.strategy import SamplerTraits
from teacache.families.streams import BlockArguments, FamilyMismatch
from teacache.report import Reason

HEUN = SamplerTraits("heun", deterministic=True)


def evaluating(step: int, run: Run) -> tuple[Run, Decision]:
    run.begin_evaluation(SIGMAS[step], CPU)
    return run, run.decide("pass")


# --- the state of a branch -----------------------------------------------------------------------


def test_a_new_branch_is_computed() -> None:
    run, decision = evaluating(2, run_of(rel_l1_thresh=0.5))
    state = branch_state(run, decision, "cond", "layout")
    assert decision.reason is Reason.NEW_BRANCH and decision.called == {"cond"}
    assert decision.state.branches == {"cond": state}


def test_a_branch_whose_layout_changes_starts_afresh() -> None:
    run, decision = evaluating(2, run_of(rel_l1_thresh=0.5))
    state = branch_state(run, decision, "cond", "layout")
    state.predictor.observe(1.0, torch.ones(1))
    again = run.decide("again")
    again.state.branches["cond"] = state
    assert branch_state(run, again, "cond", "layout") is state and again.reason is None
    assert branch_state(run, again, "cond", "other") is not state
    assert again.reason is Reason.MISMATCH
    assert again.state.branches["cond"] is not state


def test_a_branch_of_another_segment_starts_afresh() -> None:
    run = run_of([0.2, 1.0, 0.6, 0.2, 0.0], rel_l1_thresh=0.5, predictor="linear")
    run.begin_evaluation(0.2, CPU)
    first = run.decide("pass")
    state = branch_state(run, first, "cond", "layout")
    run.begin_evaluation(1.0, CPU)
    assert branch_state(run, run.decide("pass"), "cond", "layout") is not state


def test_a_branch_without_a_value_is_computed() -> None:
    run, decision = evaluating(2, run_of(rel_l1_thresh=0.5))
    decision.state.branches["cond"] = run.new_branch(("layout", run.segment))
    branch_state(run, decision, "cond", "layout")
    assert decision.reason is Reason.NEW_BRANCH


# --- the error rate ------------------------------------------------------------------------------


def known(run: Run, error: float | None, sigmas: Sequence[float] = (0.9, 0.8)) -> BranchState:
    """A branch with values at `sigmas`, whose last prediction missed by `error`."""
    state = run.new_branch("layout")
    for sigma in sigmas:
        state.predictor.observe(sigma, torch.ones(1, 1))
    state.error_rate._error = error
    state.error_rate._span = abs(sigmas[-1] - sigmas[-2])
    return state


def by_rate(run: Run, *states: BranchState) -> Decision:
    run.begin_evaluation(0.6, CPU)
    decision = run.decide("pass")
    decide_by_error_rate(run, decision, states)
    return decision


def rate_run() -> Run:
    return run_of(rel_l1_thresh=0.5, predictor="reuse", indicator="rate", cached="residual")


def test_the_largest_expected_error_decides() -> None:
    run = rate_run()
    small, large = known(run, 0.02), known(run, 0.1)
    size = run.position.schedule.relative_step_size(0.6, 0.4)
    for states in ((small, large), (large, small)):
        decision = by_rate(run, *states)
        assert decision.distance == pytest.approx(0.1 * 2 * size)
        assert decision.reason is Reason.UNDER_THRESHOLD


def test_an_error_that_is_not_known_is_computed() -> None:
    run = rate_run()
    assert by_rate(run, known(run, None)).reason is Reason.ERROR_UNKNOWN
    assert by_rate(run, known(run, 0.01), known(run, None)).reason is Reason.ERROR_UNKNOWN


def test_what_is_too_far_is_computed() -> None:
    run = run_of(rel_l1_thresh=0.5, predictor="linear", indicator="rate")
    near, far = known(run, 0.0), known(run, 0.0, (0.81, 0.8))
    assert by_rate(run, near).reason is Reason.UNDER_THRESHOLD
    assert by_rate(run, far).reason is Reason.BEYOND_HORIZON


def test_nothing_is_read_once_the_step_is_computed() -> None:
    run = rate_run()
    unknown, pending = known(run, None), known(run, None)
    run.begin_evaluation(0.6, CPU)
    decision = run.decide("pass")
    decision.require_compute(Reason.MISMATCH)
    run.reader.defer(DeferredScalar(torch.ones(()), lambda value: None))
    decide_by_error_rate(run, decision, [unknown, pending])
    assert decision.reason is Reason.MISMATCH and run.reader.count == 0


# --- caching a value -----------------------------------------------------------------------------


def test_a_value_is_cached_after_its_prediction_was_compared() -> None:
    run = run_of(rel_l1_thresh=0.5, predictor="damped", indicator="rate")
    state = known(run, None, (1.0, 0.8))
    run.begin_evaluation(0.6, CPU)
    cache_value(run, state, torch.full((1, 1), 1.5), WHOLE)
    run.reader.read()
    assert state.predictor.sigmas == [0.8, 0.6]
    assert state.error_rate._error == pytest.approx(0.5)
    assert state.predictor.fraction == 0.25, "the line went nowhere"


def test_regions_are_compared_apart() -> None:
    run = run_of(rel_l1_thresh=0.5, predictor="reuse", indicator="rate")
    state = run.new_branch("layout")
    state.predictor.observe(0.8, torch.tensor([[9.0, 1.0]]))
    run.begin_evaluation(0.6, CPU)
    cache_value(run, state, torch.tensor([[9.0, 1.5]]), Regions((1, 1)))
    run.reader.read()
    assert state.error_rate._error == pytest.approx(0.5)


@pytest.mark.parametrize(("indicator", "learns"), [("spectral", True), ("plan", False)])
def test_only_where_it_decides_an_error_is_measured(indicator: str, learns: bool) -> None:
    run = run_of(rel_l1_thresh=0.5, predictor="damped")
    run.strategy = replace(run.strategy, indicator=indicator)
    state = known(run, None, (1.0, 0.8))
    run.begin_evaluation(0.6, CPU)
    cache_value(run, state, torch.full((1, 1), 1.5), WHOLE)
    assert len(run.reader._pending) == learns, "a plan needs no read from the device at all"
    assert state.error_rate._error is None and state.predictor.sigmas == [0.8, 0.6]


# --- a whole prediction --------------------------------------------------------------------------


def prediction(run: Run, sigma: float) -> PredictionForward:
    run.begin_evaluation(sigma, CPU)
    return PredictionForward(run, run.decide("prediction"), "prediction", "layout")


def test_a_prediction_is_computed_until_its_error_is_known_and_then_skipped() -> None:
    run = run_of(rel_l1_thresh=9.0, predictor="reuse")
    reasons, values = [], []
    for sigma in SIGMAS[:-1]:
        call = prediction(run, sigma)
        exact = torch.full((1, 2), 1.0 + sigma)
        values.append(call.predict(exact) if call.skipping else call.observe(exact))
        reasons.append(call._decision.reason)
        run.end_evaluation()
    assert reasons == [
        Reason.FIRST, Reason.ERROR_UNKNOWN, Reason.UNDER_THRESHOLD,
        Reason.UNDER_THRESHOLD, Reason.LAST,
    ]  # fmt: skip
    assert all(torch.equal(value, torch.full((1, 2), 1.8)) for value in values[2:4])


def skipping(run: Run, *sigmas: float) -> list[PredictionForward]:
    """Calls that are skipped, after values 1 and 2 at the levels 1.0 and 0.8."""
    for sigma, value in ((1.0, 1.0), (0.8, 2.0)):
        call = prediction(run, sigma)
        call.observe(torch.full((1, 2), value, dtype=torch.float64))
        run.end_evaluation()
    calls = []
    for sigma in sigmas:
        call = prediction(run, sigma)
        call._decision.reason = Reason.UNDER_THRESHOLD
        assert call.skipping
        call.predict(torch.zeros(1, 2))
        calls.append(call)
        run.end_evaluation()
    return calls


def line(sampler: SamplerTraits = EULER) -> Run:
    return run_of(sampler=sampler, rel_l1_thresh=9.0, predictor="linear", indicator="rate")


def test_a_predicted_value_has_the_type_that_is_asked_for() -> None:
    run = line()
    skipping(run)
    call = prediction(run, 0.6)
    value = call.predict(torch.zeros(1, 2, dtype=torch.float16))
    assert value is not None and value.dtype == torch.float16 and value.tolist() == [[3.0, 3.0]]
    assert call._state.skipped == [(0.6, pytest.approx(-0.2))]


def test_a_skip_cannot_be_followed_by_computing_in_the_same_pass() -> None:
    run = line()
    (call,) = skipping(run, 0.6)
    with pytest.raises(RecomputePass):
        call._decision.require_compute(Reason.MISMATCH)


def parabola(points: dict[float, float], sigma: float) -> float:
    """The value at `sigma` of the parabola through three points."""
    return float(np.polyval(np.polyfit(list(points), list(points.values()), 2), sigma))


def test_what_skips_missed_is_made_good_in_the_next_computed_step() -> None:
    """A line through 1 and 2 gives 3 at 0.6; a parabola through 6 at 0.4 shows what it was."""
    run = run_of([1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.0], rel_l1_thresh=9.0, predictor="linear")
    skipping(run, 0.6)
    call = prediction(run, 0.4)
    exact = torch.full((1, 2), 6.0, dtype=torch.float64)
    true = parabola({1.0: 1.0, 0.8: 2.0, 0.4: 6.0}, 0.6)
    got = call.observe(exact)
    torch.testing.assert_close(got, torch.full_like(exact, 6.0 + (true - 3.0)))
    assert torch.equal(call._state.predictor.values[-1], exact), "cached as it was computed"
    assert call._state.skipped == []


def test_steps_of_other_sizes_are_made_good_in_proportion() -> None:
    run = run_of([1.0, 0.8, 0.6, 0.5, 0.2, 0.0], rel_l1_thresh=9.0, predictor="linear")
    skipping(run, 0.6)
    call = prediction(run, 0.5)
    true = parabola({1.0: 1.0, 0.8: 2.0, 0.5: 6.0}, 0.6)
    got = call.observe(torch.full((1, 2), 6.0, dtype=torch.float64))
    expected = 6.0 + (true - 3.0) * (0.5 - 0.6) / (0.2 - 0.5)
    torch.testing.assert_close(got, torch.full_like(got, expected))


def test_only_eulers_method_takes_a_correction() -> None:
    run = line(HEUN)
    skipping(run, 0.6)
    exact = torch.full((1, 2), 6.0)
    assert prediction(run, 0.4).observe(exact) is exact


def test_where_the_sample_does_not_move_nothing_is_corrected() -> None:
    run = run_of([1.0, 0.8, 0.6, 0.4, 0.4, 0.0], rel_l1_thresh=9.0, predictor="linear")
    skipping(run, 0.6)
    exact = torch.full((1, 2), 6.0)
    assert prediction(run, 0.4).observe(exact) is exact


def test_a_level_that_is_cached_already_corrects_nothing() -> None:
    run = line()
    skipping(run, 0.6)
    exact = torch.full((1, 2), 6.0)
    run.begin_evaluation(0.8, CPU)
    call = PredictionForward(run, run.decide("prediction"), "prediction", "layout")
    assert call.observe(exact) is exact


def test_a_step_before_which_nothing_was_skipped_is_left_alone() -> None:
    run = line()
    skipping(run)
    exact = torch.full((1, 2), 6.0)
    assert prediction(run, 0.6).observe(exact) is exact


def test_what_no_step_can_use_is_not_cached() -> None:
    run = line()
    skipping(run)
    call = prediction(run, 0.4)
    call.observe(torch.ones(1, 2))
    assert call._state.predictor.sigmas == [1.0, 0.8], "0.4 is the last step that may be skipped"


def test_a_restarted_prediction_forgets_its_values() -> None:
    run = line()
    skipping(run)
    call = prediction(run, 0.6)
    old = call._state
    call.restart()
    assert call._decision.state.branches == {"prediction": call._state}
    assert call._state is not old and call._state.layout == old.layout
    call.observe(torch.ones(1, 2))
    assert call._state.predictor.sigmas == [0.6] and old.predictor.sigmas == [1.0, 0.8]


def test_without_memory_for_a_prediction_the_model_is_evaluated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = line()
    skipping(run)
    call = prediction(run, 0.6)
    call._decision.reason = Reason.UNDER_THRESHOLD
    monkeypatch.setattr(call._state.predictor, "predict", full)
    assert call.predict(torch.zeros(1, 2)) is None
    assert run.gave_up and call._decision.reason is Reason.UNCACHED
    assert not call.skipping and call._state.skipped == []


def test_without_memory_for_a_value_the_run_goes_on_uncached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = line()
    skipping(run, 0.6)
    call = prediction(run, 0.4)
    monkeypatch.setattr("teacache.engine.forward.combine", full)
    exact = torch.ones(1, 2)
    assert call.observe(exact) is exact
    assert run.gave_up and call._state.skipped == []


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


def test_only_every_so_many_tokens_are_compared() -> None:
    run = stack_input_run(9.0, token_stride=3)
    call_of(run, 1.0, image(1.0))
    given = image(1.0)
    given[:, 1:3] = 7.0
    given[:, 3] = 2.0
    call_of(run, 0.8, given)
    assert run.report.records[-1].distance == pytest.approx(0.5), "tokens 0 and 3"


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


# --- the first block -----------------------------------------------------------------------------


def test_the_first_blocks_own_residual_decides() -> None:
    run = first_block_run()
    forward, _ = call_of(run, 1.0, image(3.0), first_block=image(1.0))
    assert forward.first_block_tokens == 0, "let go once it was compared"
    call_of(run, 0.8, image(7.5), first_block=image(5.0))
    record = run.report.records[-1]
    assert record.distance == pytest.approx(0.25) and record.skipped


def test_the_first_blocks_input_may_be_overwritten() -> None:
    run = first_block_run()
    run.begin_evaluation(1.0, CPU)
    forward = StackForward(run, run.decide("pass"), ("cond",), "layout")
    assert forward.first_block_tokens == 0
    given = image(1.0)
    forward.on_first_block(given)
    given.fill_(3.0)
    assert forward.first_block_tokens == 4
    forward.on_stack_input(nn.Identity(), BlockArguments((), {}), given)
    run.end_evaluation()
    held = run.state.of_pass(("pass", 0)).branches["cond"].indicator_input
    assert held is not None and torch.equal(held, image(2.0))


def test_of_the_first_blocks_residual_some_tokens_are_compared() -> None:
    run = first_block_run(token_stride=3)
    call_of(run, 1.0, image(3.0), first_block=image(1.0))
    held = run.state.of_pass(("pass", 0)).branches["cond"].indicator_input
    assert held is not None and held.shape == (1, 2, 2)


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
    forward.on_first_block(image(1.0))
    forward.on_stack_input(nn.Identity(), BlockArguments((), {}), image(1.0))
    try:
        raise FamilyMismatch from ValueError("no such block")
    except FamilyMismatch as mismatch:
        forward.give_up(mismatch)
    assert forward.image_tokens == 0 and not forward.skipping and forward.first_block_tokens == 0
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
