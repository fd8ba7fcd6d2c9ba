"""Every family of the table, on ComfyUI's own classes: what a correct skip is."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
import torch
from sampling import (
    SKIP_ALL,
    SKIP_NONE,
    Call,
    cached,
    family_of,
    recording,
    report_of,
    sample,
    spying,
    stack_blocks,
)
from watched_blocks import stack_of, watch

from teacache.families.streams import BlockArguments, Role

pytestmark = pytest.mark.usefixtures("comfy")
every_family = pytest.mark.parametrize("name", list(tiny_models.TINY))


@pytest.fixture
def model(name: str) -> Any:
    return tiny_models.build(name)


@every_family
def test_is_recognised(name: str, model: Any) -> None:
    from teacache.families.registry import find_family

    family = find_family(model.model.diffusion_model)
    assert family is not None
    assert family.id == tiny_models.TINY[name].family_id(name)


@every_family
@pytest.mark.parametrize("threshold", [0.0, SKIP_NONE])
def test_without_skips_the_picture_is_bit_identical(
    name: str, model: Any, threshold: float
) -> None:
    native = sample(model, name)
    clone, handle = cached(model, threshold)
    assert torch.equal(sample(clone, name), native)
    assert report_of(handle).skipped == 0


@every_family
def test_a_skip_calls_no_block_and_the_report_agrees_with_the_spy(name: str, model: Any) -> None:
    clone, handle = cached(model, SKIP_ALL)
    with spying(model) as spy:
        sample(clone, name, steps=6)
    report = report_of(handle)
    start = handle.profile.start_percent * 6
    eligible = [0 < step < 5 and step >= start for step in range(6)]
    assert [record.skipped for record in report.records] == eligible
    calls_per_evaluation = len(spy.per_call) // 6
    assert spy.skipped_calls == sum(eligible) * calls_per_evaluation
    blocks = len(stack_blocks(model))
    assert set(spy.per_call) == {0, blocks}


@every_family
def test_a_skip_equals_arithmetic_by_hand(name: str, model: Any) -> None:
    assert_skips_equal_arithmetic_by_hand(name, model)


@every_family
def test_batched_and_split_branches_agree_and_stay_apart(
    name: str, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not tiny_models.TINY[name].splits:
        pytest.skip("this model runs its branches together only")
    clone, handle = cached(model, SKIP_ALL)
    batched = sample(clone, name)
    decisions = [record.skipped for record in report_of(handle).records]
    with spying(model) as spy:
        monkeypatch.setattr(model.model, "memory_required", lambda *args, **kwargs: 1e30)
        split = sample(clone, name)
    assert len(spy.per_call) == 12, "the branches were not split"
    assert [record.skipped for record in report_of(handle).records] == decisions
    scale = batched.abs().max()
    assert (split - batched).abs().max() <= 1e-5 * scale
    alone = sample(clone, name, cfg=1.0)
    assert (alone - batched).abs().max() > 5e-5 * scale, "guidance has no effect: the branches mix"


@pytest.mark.parametrize("name", list(tiny_models.BASIC))
def test_three_conds_agree_batched_and_split(
    name: str, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    positive = tiny_models.cond(name, 1) + tiny_models.cond(name, 3)
    clone, handle = cached(model, SKIP_ALL)
    batched = sample(clone, name, positive=positive)
    with spying(model) as spy:
        monkeypatch.setattr(model.model, "memory_required", lambda *args, **kwargs: 1e30)
        split = sample(clone, name, positive=positive)
    assert len(spy.per_call) == 18, "the branches were not split"
    assert spy.skipped_calls == 12 and report_of(handle).skipped == 4
    scale = batched.abs().max()
    assert (split - batched).abs().max() <= 1e-5 * scale
    assert (sample(clone, name) - batched).abs().max() > 5e-5 * scale, "the third has no effect"


@every_family
def test_the_second_run_equals_the_first(name: str, model: Any) -> None:
    clone, _ = cached(model, SKIP_ALL)
    assert torch.equal(sample(clone, name), sample(clone, name))


@every_family
def test_patches_of_other_nodes_are_kept(name: str, model: Any) -> None:
    """A replaced block (as skip-layer guidance does) gives what it gives without the cache."""
    if not tiny_models.TINY[name].patches_replace:
        pytest.skip("this family's forward has no patches_replace")
    patched = model.clone()
    patched.set_model_patch_replace(
        lambda args, extra: {k: v for k, v in args.items() if k in ("img", "txt")},
        "dit", "double_block", 1,
    )  # fmt: skip
    native = sample(patched, name)
    assert not torch.equal(native, sample(model, name)), "the patch has no effect"
    clone, _ = cached(patched, SKIP_NONE)
    assert torch.equal(sample(clone, name), native)
    clone, handle = cached(patched, SKIP_ALL)
    with spying(model) as spy:
        sample(clone, name)
    assert report_of(handle).skipped == 4
    assert spy.skipped_calls == 4 * len(spy.per_call) // 6


@pytest.mark.parametrize("name", ["qwen_image", "qwen_image_edit"])
def test_what_a_model_patch_adds_between_blocks_is_not_counted_twice(name: str, model: Any) -> None:
    """Qwen-Image's ControlNet-like model patches add to the image after each block, in place."""

    def add(args: dict[str, Any]) -> dict[str, Any]:
        part = args["img"][:, :8]
        part += 0.1 * (1 + args["block_index"]) * torch.tanh(part)
        return args

    patched = model.clone()
    patched.set_model_patch(add, "double_block")
    native = sample(patched, name)
    assert not torch.equal(native, sample(model, name)), "the patch has no effect"
    clone, _ = cached(patched, SKIP_NONE)
    assert torch.equal(sample(clone, name), native)
    assert_skips_equal_arithmetic_by_hand(name, patched)


@pytest.mark.parametrize(
    "name", [name for name, tiny in tiny_models.TINY.items() if tiny.control is not None]
)
def test_a_control_residual_is_not_counted_twice(name: str, model: Any) -> None:
    def inject(call: Call) -> None:
        call.c["control"] = tiny_models.TINY[name].control(call.x)

    native = sample(recording(model, inject)[0], name)
    assert not torch.equal(native, sample(model, name)), "the control has no effect"
    clone, _ = cached(recording(model, inject)[0], SKIP_NONE)
    assert torch.equal(sample(clone, name), native)
    assert_skips_equal_arithmetic_by_hand(name, model, inject)


def assert_skips_equal_arithmetic_by_hand(name: str, model: Any, inject: Any = None) -> None:
    """Replays every call natively; on skips a hook sets the last block's image to
    (this call's first input) + (output - input of the computed call)."""
    recorded, calls = recording(model, inject)
    clone, handle = cached(recorded, SKIP_ALL)
    sample(clone, name, steps=4)
    skipped = [record.skipped for record in report_of(handle).records]
    assert skipped == [False, True, True, False]
    per_step = len(calls) // 4
    steps = [calls[i * per_step : (i + 1) * per_step] for i in range(4)]
    for number in range(per_step):
        first_call = steps[0][number]
        out, entry, leave = _replay(model, first_call, residual=None)
        torch.testing.assert_close(first_call.out, out, rtol=0, atol=0)
        for step in steps[1:3]:
            by_hand, _, _ = _replay(model, step[number], residual=leave - entry)
            scale = by_hand.abs().max()
            assert (step[number].out - by_hand).abs().max() <= 1e-5 * scale


def _replay(
    model: Any, call: Call, residual: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(model output, first block's image input, last block's image output) of a native call."""
    stack = stack_of(model.model.diffusion_model, family_of(model))
    (entry, first), (end, last) = stack[0], stack[-1]
    role = last.image_stream().role
    seen: dict[str, torch.Tensor] = {}

    def at_entry(arguments: BlockArguments) -> None:
        seen["entry"] = arguments.stream(first.image_stream()).clone()

    def at_end(arguments: BlockArguments, out: Any) -> Any:
        many = len(last.outputs) > 1
        tensor = out[last.outputs.index(role)] if many else out
        tokens = seen["entry"].shape[1]
        part = {
            Role.TEXT_IMAGE: lambda t: t[:, -tokens:],
            Role.IMAGE_TEXT: lambda t: t[:, :tokens],
        }.get(role, lambda t: t)
        seen["leave"] = part(tensor).clone()
        if residual is None:
            return None
        replaced = tensor.clone()
        part(replaced)[:] = seen["entry"] + residual
        if not many:
            return replaced
        return tuple(replaced if r is role else o for r, o in zip(last.outputs, out, strict=True))

    c = {k: v for k, v in call.c.items() if k != "transformer_options"}
    options = {k: v for k, v in call.c["transformer_options"].items() if k != "wrappers"}
    entering = watch(entry, first, before=at_entry)
    leaving = watch(end, last, after=at_end)
    with entering, leaving, torch.inference_mode():
        out = model.model.apply_model(call.x, call.t, **c, transformer_options=options)
    return out, seen["entry"], seen["leave"]
