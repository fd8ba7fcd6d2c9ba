"""What a forward compares by regions, predicts and corrects, and what memory it takes for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lone_calls import Observer, call_of, full, image, stack_input_run
from lone_runs import CPU, run_of
from torch import nn

from teacache.engine.decision import BranchState, RecomputePass
from teacache.engine.forward import RELIABLE_ERROR, PredictionForward, StackForward
from teacache.engine.regions import LatentLayout
from teacache.engine.run import Run
from teacache.families.streams import BlockArguments
from teacache.report import Reason


def branch_of(run: Run, key: str = "cond") -> BranchState:
    return run.state.of_pass(("pass", 0)).branches[key]


def stack(run: Run, sigma: float = 0.8, *keys: str) -> StackForward:
    run.begin_evaluation(sigma, CPU)
    return StackForward(run, run.decide("pass"), keys or ("cond",), "layout")


def give(forward: StackForward, given: torch.Tensor) -> None:
    forward.on_stack_input(nn.Identity(), BlockArguments((), {}), given)


# --- regions of the tokens -----------------------------------------------------------------------


def test_of_packed_parts_the_one_that_changes_most_decides() -> None:
    run = stack_input_run(9.0)
    given = image(9.0)
    given[:, 3] = 1.0
    call_of(run, 1.0, given, parts=(3, 1))
    changed = given.clone()
    changed[:, 3] = 1.5
    call_of(run, 0.8, changed, parts=(3, 1))
    assert run.report.records[-1].distance == pytest.approx(0.5)


def masked(run: Run) -> Run:
    """A latent of one row of tokens, of which only the last one is sampled."""
    mask = torch.zeros(1, 4, 1, 4)
    mask[..., -1] = 1.0
    run.latent = LatentLayout((1, 4, 1, 4), mask=mask)
    return run


def test_tokens_that_are_not_sampled_do_not_count() -> None:
    run = masked(stack_input_run(9.0))
    call_of(run, 1.0, image(1.0))
    changed = image(1.0)
    changed[:, :3], changed[:, 3] = 7.0, 1.25
    call_of(run, 0.8, changed)
    assert run.report.records[-1].distance == pytest.approx(0.25)


# --- one call of the stack -----------------------------------------------------------------------


def test_before_its_stack_a_call_has_no_tokens_and_skips_nothing() -> None:
    forward = stack(stack_input_run())
    assert forward.image_tokens == 0 and forward.skipping is False


def test_the_residual_takes_the_memory_of_the_copied_input() -> None:
    run = stack_input_run()
    forward = stack(run)
    give(forward, image(1.0))
    assert forward._stack_input is not None
    copied = forward._stack_input.data_ptr()
    forward.on_stack_output(image(3.0))
    (held,) = branch_of(run).predictor.values
    assert held.data_ptr() == copied and torch.equal(held, image(2.0))


def test_only_the_first_output_of_a_stack_is_cached() -> None:
    run = stack_input_run()
    forward = stack(run)
    give(forward, image(1.0))
    forward.on_stack_output(image(3.0))
    forward.on_stack_output(image(9.0))
    assert torch.equal(branch_of(run).predictor.values[-1], image(2.0))


def test_a_computed_stack_is_copied_before_its_blocks_overwrite_it() -> None:
    run = stack_input_run()
    forward, given = stack(run), image(1.0)
    give(forward, given)
    given.fill_(3.0)
    forward.on_stack_output(given)
    assert torch.equal(branch_of(run).predictor.values[-1], image(2.0))


def test_a_prediction_does_not_overwrite_the_input_or_what_is_cached() -> None:
    run = stack_input_run()
    call_of(run, 1.0, image(1.0))
    given = image(1.1)
    _, out = call_of(run, 0.8, given)
    assert torch.equal(given, image(1.1)) and out.data_ptr() != given.data_ptr()
    assert torch.equal(branch_of(run).predictor.values[-1], image(10.0))


def test_each_prediction_is_made_at_the_calls_level_beside_its_input() -> None:
    run = stack_input_run()
    call_of(run, 1.0, image(1.0, 2.0), ("cond", "uncond"))
    asked: list[tuple[float, torch.Tensor]] = []
    for key, value in (("cond", 5.0), ("uncond", 6.0)):

        def predict(sigma: float, like: torch.Tensor, value: float = value) -> torch.Tensor:
            asked.append((sigma, like.clone()))
            return torch.full_like(like, value)

        branch_of(run, key).predictor.predict = predict  # type: ignore[method-assign, assignment]
    _, out = call_of(run, 0.8, image(1.0, 2.0), ("cond", "uncond"))
    assert torch.equal(out, image(6.0, 8.0))
    assert [sigma for sigma, _ in asked] == [0.8, 0.8]
    assert torch.equal(torch.cat([like for _, like in asked]), image(1.0, 2.0))


def test_a_change_is_observed_in_a_step_that_is_computed_whatever_it_is() -> None:
    observer = Observer()
    run = stack_input_run(observer=observer)
    call_of(run, 1.0, image(1.0))
    forward = stack(run)
    forward._decision.require_compute(Reason.UNCACHED)
    give(forward, image(1.25))
    assert observer.changes == [(1, "cond", pytest.approx(0.25))]
    assert forward._decision.distance is None and not forward.skipping


def test_what_is_cached_goes_where_the_user_wants_it() -> None:
    run, moved = stack_input_run(), []

    def to_cache_device(tensor: torch.Tensor) -> torch.Tensor:
        moved.append(tensor)
        return tensor + 1.0

    run.to_cache_device = to_cache_device  # type: ignore[method-assign]
    call_of(run, 1.0, image(1.0))
    (read, residual), branch = moved, branch_of(run)
    assert torch.equal(read, image(1.0)) and torch.equal(residual, image(10.0))
    assert branch.indicator_input is not None and torch.equal(branch.indicator_input, image(2.0))
    assert torch.equal(branch.predictor.values[-1], image(11.0))


def test_while_measuring_the_run_what_was_read_is_not_kept() -> None:
    run = stack_input_run(observer=Observer())
    forward, _ = call_of(run, 1.0, image(1.0), measure_only=True)
    assert branch_of(run).indicator_input is None and forward._stack_input is None


def test_a_mismatch_forgets_what_was_copied() -> None:
    run = stack_input_run()
    forward = stack(run)
    give(forward, image(1.0))
    forward.give_up("no such block")  # type: ignore[arg-type]
    assert forward._stack_input is None
    assert forward.image_tokens == 0 and forward.skipping is False


def test_a_branch_whose_input_was_not_read_is_computed() -> None:
    run = stack_input_run()
    call_of(run, 1.0, image(1.0))
    branch_of(run).indicator_input = None
    forward, _ = call_of(run, 0.8, image(1.0))
    assert not forward.skipping and run.report.records[-1].distance is None


def test_a_call_after_the_cache_was_let_go_repeats_a_pass_that_was_skipped() -> None:
    run = stack_input_run()
    call_of(run, 1.0, image(1.0, 2.0), ("cond", "uncond"))
    run.begin_evaluation(0.8, CPU)
    decision = run.decide("pass")
    first, second = (StackForward(run, decision, (key,), "layout") for key in ("cond", "uncond"))
    give(first, image(1.1))
    assert first.skipping
    run.give_up("another pass does not match")
    with pytest.raises(RecomputePass):
        give(second, image(2.0))
    assert decision.reason is Reason.UNCACHED


@pytest.mark.parametrize("indicator", ["rate", "stack_input"])
def test_a_batch_with_fewer_rows_than_branches_is_refused(indicator: str) -> None:
    run = stack_input_run()
    if indicator == "rate":
        run = run_of(rel_l1_thresh=0.5, predictor="reuse", indicator="rate", cached="residual")
    run.begin_evaluation(1.0, CPU)
    decision = run.decide("pass")
    forward = StackForward(run, decision, ("cond", "uncond"), "layout", indicator != "rate")
    with pytest.raises(ValueError, match="zip"):
        give(forward, image(1.0))
        forward.on_stack_output(image(2.0))


# --- no memory -----------------------------------------------------------------------------------


def test_without_memory_for_the_input_read_a_step_that_could_be_skipped_is_computed() -> None:
    run = stack_input_run()
    call_of(run, 1.0, image(1.0))
    forward = stack(run)
    run.to_cache_device = full  # type: ignore[method-assign]
    give(forward, image(1.1))
    assert run.gave_up and run.state.bytes_held == 0
    assert forward.skipping is False and forward._decision.reason is Reason.UNCACHED


def test_without_memory_for_a_copy_the_cache_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    run = stack_input_run()
    call_of(run, 1.0, image(3.0))
    assert run.state.bytes_held
    forward = stack(run)
    run.read_stack_input = lambda *_: image(9.0)  # type: ignore[assignment]
    monkeypatch.setattr(torch.Tensor, "clone", full)
    give(forward, image(9.0))
    assert forward._stack_input is None
    assert run.gave_up and not forward.skipping
    assert [branch.predictor.sigmas for branch in forward._decision.state.branches.values()] in (
        [], [[]],
    )  # fmt: skip


def test_without_memory_for_a_stacks_prediction_the_cache_is_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = stack_input_run()
    call_of(run, 1.0, image(1.0))
    forward = stack(run)
    monkeypatch.setattr(torch, "empty_like", full)
    give(forward, image(1.1))
    assert run.gave_up and run.state.bytes_held == 0
    assert forward.skipping is False and forward._decision.reason is Reason.UNCACHED


def test_without_memory_for_a_residual_the_cache_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    run = stack_input_run()
    call_of(run, 1.0, image(1.0))
    forward = stack(run)
    give(forward, image(9.0))
    monkeypatch.setattr("teacache.engine.forward.cache_value", full)
    forward.on_stack_output(image(10.0))
    assert run.gave_up and run.state.bytes_held == 0


# --- a whole prediction --------------------------------------------------------------------------


def prediction(run: Run, sigma: float, layout: str = "layout") -> PredictionForward:
    run.begin_evaluation(sigma, CPU)
    return PredictionForward(run, run.decide("pass"), "key", layout)


def computed(run: Run, values: dict[float, float], dtype: Any = torch.float64) -> None:
    for sigma, value in values.items():
        prediction(run, sigma).observe(torch.full((1, 2), value, dtype=dtype))
        run.end_evaluation()


def skip(run: Run, sigma: float) -> PredictionForward:
    call = prediction(run, sigma)
    call._decision.reason = Reason.UNDER_THRESHOLD
    assert call.predict(torch.zeros(1, 2)) is not None
    run.end_evaluation()
    return call


def test_a_prediction_in_another_layout_is_computed() -> None:
    run = run_of(rel_l1_thresh=9.0, predictor="reuse")
    computed(run, {1.0: 1.0, 0.8: 2.0})
    assert prediction(run, 0.6, "other")._decision.reason is Reason.MISMATCH


def test_two_skipped_steps_are_made_good_together() -> None:
    """1 at 0.8 was used again at 0.6 and 0.4; the line to 1.5 at 0.3 gives 1.2 and 1.4 there."""
    run = run_of([1.0, 0.8, 0.6, 0.4, 0.3, 0.1, 0.0], rel_l1_thresh=9.0, predictor="reuse")
    computed(run, {1.0: 5.0, 0.8: 1.0})
    skip(run, 0.6)
    skip(run, 0.4)
    exact = torch.full((1, 2), 1.5, dtype=torch.float64)
    got = prediction(run, 0.3).observe(exact)
    gain = 1 / (1 + (0.5 / RELIABLE_ERROR) ** 2)
    torch.testing.assert_close(got, exact + gain * (0.2 * 0.2 + 0.4 * 0.1) / 0.2)


def test_a_corrected_value_has_the_type_of_the_computed_one() -> None:
    run = run_of([1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.0], rel_l1_thresh=9.0, predictor="linear")
    computed(run, {1.0: 1.0, 0.8: 2.0})
    skip(run, 0.6)
    got = prediction(run, 0.4).observe(torch.full((1, 2), 6.0))
    assert got.dtype == torch.float32 and not torch.equal(got, torch.full((1, 2), 6.0))


def test_a_predictions_memory_is_looked_for_beside_what_it_is_for() -> None:
    run = run_of(rel_l1_thresh=9.0, predictor="reuse")
    computed(run, {1.0: 1.0, 0.8: 2.0})
    call, like = prediction(run, 0.6), torch.zeros(1, 2)
    asked: list[Any] = []

    def predict(*given: Any) -> torch.Tensor:
        asked.extend(given)
        return torch.ones(1, 2)

    call._state.predictor.predict = predict  # type: ignore[method-assign, assignment]
    call.predict(like)
    assert asked[0] == 0.6 and asked[1] is like


def test_without_memory_for_a_prediction_the_cache_is_let_go() -> None:
    run = run_of(rel_l1_thresh=9.0, predictor="reuse")
    computed(run, {1.0: 1.0, 0.8: 2.0})
    call = prediction(run, 0.6)
    call._state.predictor.predict = full  # type: ignore[method-assign]
    assert call.predict(torch.zeros(1, 2)) is None and run.state.bytes_held == 0


def test_a_new_branch_has_skipped_nothing() -> None:
    run = run_of(rel_l1_thresh=9.0)
    first, second = run.new_branch("layout"), run.new_branch("layout")
    assert first.skipped == [] and first.skipped is not second.skipped
