"""What a forward keeps of a branch, and whole predictions, on runs without a host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from lone_calls import full
from lone_runs import CPU, EULER, SIGMAS, rate_run, run_of

from teacache.engine.decision import BranchState, Decision, RecomputePass
from teacache.engine.device import DeferredScalar
from teacache.engine.forward import (
    RELIABLE_ERROR,
    PredictionForward,
    branch_state,
    cache_value,
    correction_gain,
    decide_by_error_rate,
)
from teacache.engine.regions import LatentLayout
from teacache.engine.run import Run
from teacache.engine.strategy import SamplerTraits
from teacache.report import Reason

HEUN = SamplerTraits("heun")


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
    state.error_rate._grown = abs(sigmas[-1] - sigmas[-2])
    return state


def by_rate(run: Run, state: BranchState) -> Decision:
    run.begin_evaluation(0.6, CPU)
    decision = run.decide("pass")
    decide_by_error_rate(run, decision, state)
    return decision


def test_the_expected_error_decides() -> None:
    run = rate_run()
    size = run.position.schedule.relative_step_size(0.6, 0.4)
    decision = by_rate(run, known(run, 0.1))
    assert decision.distance == pytest.approx(0.1 * 2 * size)
    assert decision.reason is Reason.UNDER_THRESHOLD


def test_an_error_that_is_not_known_is_computed() -> None:
    run = rate_run()
    assert by_rate(run, known(run, None)).reason is Reason.ERROR_UNKNOWN


def test_what_is_too_far_is_computed() -> None:
    run = run_of(rel_l1_thresh=0.5, predictor="linear", indicator="rate")
    near, far = known(run, 0.0), known(run, 0.0, (0.81, 0.8))
    assert by_rate(run, near).reason is Reason.UNDER_THRESHOLD
    assert by_rate(run, far).reason is Reason.BEYOND_HORIZON


def test_nothing_is_read_once_the_step_is_computed() -> None:
    run = rate_run()
    unknown = known(run, None)
    run.begin_evaluation(0.6, CPU)
    decision = run.decide("pass")
    decision.require_compute(Reason.MISMATCH)
    run.reader.defer(DeferredScalar(torch.ones(()), lambda value: None))
    decide_by_error_rate(run, decision, unknown)
    assert decision.reason is Reason.MISMATCH and run.reader.count == 0


# --- caching a value -----------------------------------------------------------------------------


def test_a_value_is_cached_after_the_predictor_has_learned_from_it() -> None:
    run = run_of(rel_l1_thresh=0.5, predictor="damped", indicator="rate")
    state = known(run, None, (1.0, 0.8))
    run.begin_evaluation(0.6, CPU)
    cache_value(run, state, torch.full((1, 1), 1.5))
    run.reader.read()
    assert state.predictor.sigmas == [0.8, 0.6]
    assert state.predictor.fraction == 0.25, "the line went nowhere"


def observed(run: Run, sigma: float, value: list[list[float]]) -> PredictionForward:
    call = prediction(run, sigma)
    call.observe(torch.tensor(value))
    run.end_evaluation()
    return call


def test_a_prediction_is_compared_before_it_is_cached() -> None:
    run = run_of(rel_l1_thresh=0.5, predictor="reuse", indicator="rate")
    observed(run, 0.8, [[1.0, 1.0]])
    call = observed(run, 0.6, [[1.5, 1.5]])
    run.reader.read()
    assert call._state.error_rate._error == pytest.approx(0.5)


def test_regions_are_compared_apart() -> None:
    run = run_of(rel_l1_thresh=0.5, predictor="reuse", indicator="rate")
    run.latent = LatentLayout((1, 2), ((1, 1), (1, 1)))
    observed(run, 0.8, [[9.0, 1.0]])
    call = observed(run, 0.6, [[9.0, 1.5]])
    run.reader.read()
    assert call._state.error_rate._error == pytest.approx(0.5)


def test_only_where_it_decides_or_corrects_an_error_is_measured() -> None:
    run = run_of(rel_l1_thresh=0.5, predictor="reuse", indicator="rate")
    run.strategy = replace(run.strategy, indicator="plan")
    observed(run, 0.8, [[1.0, 1.0]])
    call = observed(run, 0.6, [[1.5, 1.5]])
    run.reader.read()
    assert call._state.error_rate._error is None and call._state.predictor.sigmas == [0.6]


def test_a_plan_learns_nothing_and_reads_nothing() -> None:
    run = run_of(rel_l1_thresh=0.5, predictor="damped", indicator="rate")
    run.strategy = replace(run.strategy, indicator="plan")
    for sigma, value in ((1.0, 1.0), (0.8, 2.0), (0.6, 2.0)):
        call = observed(run, sigma, [[value, value]])
    run.reader.read()
    assert call._state.predictor.fraction == 0.5 and run.reader.count == 0


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


def gained(predicted: float, value: float) -> float:
    """The gain of a correction where `value` was to be `predicted`."""
    return 1 / (1 + (abs(value / predicted - 1) / RELIABLE_ERROR) ** 2)


def test_what_skips_missed_is_made_good_in_the_next_computed_step() -> None:
    """A line through 1 and 2 gives 3 at 0.6 and 4 at 0.4; a parabola shows what it was at 0.6."""
    run = run_of([1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.0], rel_l1_thresh=9.0, predictor="linear")
    skipping(run, 0.6)
    call = prediction(run, 0.4)
    exact = torch.full((1, 2), 5.0, dtype=torch.float64)
    true = parabola({1.0: 1.0, 0.8: 2.0, 0.4: 5.0}, 0.6)
    got = call.observe(exact)
    torch.testing.assert_close(got, torch.full_like(exact, 5.0 + gained(4.0, 5.0) * (true - 3.0)))
    assert torch.equal(call._state.predictor.values[-1], exact), "cached as it was computed"
    assert call._state.skipped == [] and call._state.followed is None


def test_steps_of_other_sizes_are_made_good_in_proportion() -> None:
    run = run_of([1.0, 0.8, 0.6, 0.5, 0.2, 0.0], rel_l1_thresh=9.0, predictor="linear")
    skipping(run, 0.6)
    call = prediction(run, 0.5)
    got = call.observe(torch.full((1, 2), 5.0, dtype=torch.float64))
    true = parabola({1.0: 1.0, 0.8: 2.0, 0.5: 5.0}, 0.6)
    missed = (true - 3.0) * (0.5 - 0.6) / (0.2 - 0.5)
    torch.testing.assert_close(got, torch.full_like(got, 5.0 + gained(3.5, 5.0) * missed))


@pytest.mark.parametrize("missed", [float("nan"), float("inf")])
def test_what_cannot_be_compared_is_not_corrected(missed: float) -> None:
    assert correction_gain(torch.tensor(missed)) == 0.0
    assert correction_gain(torch.tensor(0.0)) == 1.0
    assert correction_gain(torch.tensor(0.4)) == pytest.approx(0.5)
    assert correction_gain(torch.tensor(1.2)) == pytest.approx(0.1)


def test_what_is_made_of_skipped_and_computed_branches_is_neither_cached_nor_corrected() -> None:
    run = line()
    skipping(run, 0.6)
    call = prediction(run, 0.4)
    call._decision.mixed = True
    exact = torch.full((1, 2), 6.0)
    assert call.observe(exact) is exact
    assert call._state.predictor.sigmas == [1.0, 0.8] and call._state.skipped == []


def test_half_precision_is_summed_in_single() -> None:
    """0.3 and 0.2 of 2049, which half precision does not have, and back in half precision."""
    sigmas = [1.0, 0.9, 0.6, 0.4, 0.2, 0.1, 0.0]
    run = run_of(sigmas, rel_l1_thresh=9.0, predictor="reuse")
    for sigma in (1.0, 0.9):
        prediction(run, sigma).observe(torch.full((1, 2), 2048.0, dtype=torch.float16))
        run.end_evaluation()
    call = prediction(run, 0.6)
    call.skipped(torch.full((1, 2), 2050.0, dtype=torch.float16))
    assert call._state.followed is not None and call._state.followed.dtype == torch.float32
    run.end_evaluation()
    got = prediction(run, 0.4).observe(torch.full((1, 2), 2048.0, dtype=torch.float16))
    assert got.dtype == torch.float16 and got.tolist() == [[2046.0, 2046.0]]


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
    monkeypatch.setattr("teacache.engine.forward.correction_gain", full)
    exact = torch.ones(1, 2)
    assert call.observe(exact) is exact
    assert run.gave_up and call._state.skipped == []
