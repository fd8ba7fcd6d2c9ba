"""Conds of every kind: areas, masks, ranges, ControlNets, LoRAs with a schedule of their own."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import tiny_models
import torch
from hostile import (
    FAMILY,
    MODES,
    SKIP_HALF,
    cached_run,
    distance,
    latent,
    live_objects,
    run,
    skip_pattern,
    small_model,
)
from sampling import SKIP_ALL, SKIP_NONE, cached, report_of

from teacache.report import Reason

pytestmark = pytest.mark.usefixtures("comfy")
both_modes = pytest.mark.parametrize("mode", MODES)
LATENT = (8, 8)


@pytest.fixture(scope="module")
def model(comfy: Any) -> Any:
    return small_model()


def cond(seed: int, **entries: Any) -> list[Any]:
    ((context, known),) = tiny_models.cond(FAMILY, seed)
    return [[context, {**known, **entries}]]


def sigma_at(model: Any, percent: float) -> float:
    return float(model.get_model_object("model_sampling").percent_to_sigma(percent))


# --- where a cond holds ---------------------------------------------------------------------------


@both_modes
@pytest.mark.parametrize("count", [1, 2])
def test_the_negative_opposite_an_area_keeps_its_own_residual(
    model: Any, count: int, mode: str
) -> None:
    """ComfyUI puts a negative opposite each positive with an area, under the positive's identity.

    Negatives with these areas, which have an identity of their own, give the same picture.
    """
    areas = [(4, 8, 0, 0), (4, 8, 4, 0)][:count]
    positive = [cond(1 + index, area=area)[0] for index, area in enumerate(areas)] + cond(5)
    negative = [cond(9, area=area)[0] for area in areas] + cond(9)
    size = {"latent": latent(1, *LATENT), "steps": 16, "positive": positive}
    native = run(model, **size, negative=cond(9))
    assert torch.equal(native, run(model, **size, negative=negative))
    clone, handle = cached(model, SKIP_ALL, mode=mode, max_skip=1)
    got = run(clone, **size, negative=cond(9))
    decided = skip_pattern(report_of(handle))
    torch.testing.assert_close(got, run(clone, **size, negative=negative), rtol=0, atol=1e-5)
    assert skip_pattern(report_of(handle)) == decided and decided.count("s") >= 4


@both_modes
def test_a_masked_latent_is_kept_where_it_is_masked(model: Any, mode: str) -> None:
    """Inpainting: what is not repainted comes out as it went in, skip or not."""
    import nodes

    start = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(3))
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 2:] = 1.0

    def paint(patched: Any) -> torch.Tensor:
        given = {"samples": start, "noise_mask": mask}
        with torch.inference_mode():
            (out,) = nodes.common_ksampler(
                patched, 1, 20, 3.0, "euler", "simple", cond(1), cond(2), given, denoise=0.8
            )
        return out["samples"]

    native = paint(model)
    assert torch.equal(paint(cached(model, SKIP_NONE, mode=mode)[0]), native)
    clone, handle = cached(model, SKIP_HALF[mode], mode=mode)
    got = paint(clone)
    assert report_of(handle).skipped >= 4
    torch.testing.assert_close(got[..., :2], start[..., :2], rtol=0, atol=1e-5)
    assert 0 < distance(got[..., 2:], native[..., 2:]) < 0.1


# --- when a cond holds ----------------------------------------------------------------------------


def crossings(model: Any, levels: list[float], report: Any) -> list[int]:
    """Evaluations before which one of `levels` was crossed."""
    sides = [tuple(record.sigma > level for level in levels) for record in report.records]
    return [place + 1 for place, (one, other) in enumerate(pairwise(sides)) if one != other]


@both_modes
def test_a_cond_that_appears_within_the_run(model: Any, mode: str) -> None:
    """The first evaluation with it is computed; so is the first one after another has gone."""
    positive = cond(1, end_percent=0.6) + cond(3, start_percent=0.3)
    native = run(model, steps=24, positive=positive)
    never, _ = cached_run(model, mode, SKIP_NONE, steps=24, positive=positive)
    assert torch.equal(never, native)
    got, report = cached_run(model, mode, SKIP_ALL, steps=24, positive=positive)
    crossed = crossings(model, [sigma_at(model, 0.3), sigma_at(model, 0.6)], report)
    assert len(crossed) == 2
    for place in crossed:
        assert not report.records[place].skipped
        assert mode == "forecast" or report.records[place - 1].skipped
    assert skip_pattern(report).count("s") >= 8 and torch.isfinite(got).all()


class Control:
    """Makes a ControlNet that adds to the last block, and remembers what it gave."""

    def __init__(self, **keywords: Any) -> None:
        from comfy.controlnet import ControlBase

        gave: list[bool] = []

        class Adding(ControlBase):
            def get_control(self, x: Any, t: Any, *_: Any) -> Any:
                inside = self.timestep_range[1] <= float(t[0]) <= self.timestep_range[0]
                gave.append(inside)
                if not inside:
                    return None
                tokens = (x.shape[2] // 2) * (x.shape[3] // 2)
                adds = torch.linspace(-1.0, 1.0, tokens * 128).view(1, tokens, 128)
                return {"output": [adds, adds], "input": [], "middle": []}

            def copy(self) -> Any:
                made = Adding()
                self.copy_to(made)
                return made

        self.gave = gave
        self.net = Adding()


@both_modes
def test_a_controlnet_that_begins_and_ends_within_the_run(model: Any, mode: str) -> None:
    import nodes

    control = Control()
    image = torch.zeros(1, 32, 32, 3)
    positive, negative = nodes.ControlNetApplyAdvanced().apply_controlnet(
        cond(1), cond(2), control.net, image, 1.0, 0.3, 0.7
    )
    conds = {"positive": positive, "negative": negative, "steps": 24}
    native = run(model, **conds)
    assert distance(native, run(model, steps=24)) > 1e-3, "the control has no effect"
    assert torch.equal(cached_run(model, mode, SKIP_NONE, **conds)[0], native)
    control.gave.clear()
    got, report = cached_run(model, mode, SKIP_ALL, **conds)
    crossed = crossings(model, [sigma_at(model, 0.3), sigma_at(model, 0.7)], report)
    assert len(crossed) == 2
    for place in crossed:
        assert report.records[place].reason is Reason.MISMATCH
        assert mode == "forecast" or report.records[place - 1].skipped
    assert torch.isfinite(got).all() and set(control.gave) == {True, False}


# --- LoRA -----------------------------------------------------------------------------------------

WEIGHT = "diffusion_model.joint_blocks.1.x_block.mlp.fc1.weight"


def patches(model: Any) -> dict[str, Any]:
    return {WEIGHT: (torch.ones_like(model.model_state_dict()[WEIGHT]) * 0.05,)}


@both_modes
def test_a_lora_before_and_behind_the_cache(model: Any, mode: str) -> None:
    before = model.clone()
    before.add_patches(patches(model))
    expected, report = cached_run(before, mode, steps=12)
    behind, handle = cached(model, SKIP_HALF[mode], mode=mode)
    behind.add_patches(patches(model))
    assert torch.equal(run(behind, steps=12), expected)
    assert skip_pattern(report_of(handle)) == skip_pattern(report) and report.skipped
    assert distance(expected, cached_run(model, mode, steps=12)[0]) > 1e-3
    native = run(before, steps=12)
    assert torch.equal(cached_run(before, mode, SKIP_NONE, steps=12)[0], native)


@both_modes
def test_a_lora_with_keyframes_is_computed_when_its_strength_changes(model: Any, mode: str) -> None:
    import comfy.hooks

    group = comfy.hooks.create_hook_lora(patches(model), 1.0, 1.0)
    group.hooks[0].need_weight_init = False
    keyframes = comfy.hooks.HookKeyframeGroup()
    for strength, start in ((0.0, 0.0), (4.0, 0.5)):
        keyframes.add(comfy.hooks.HookKeyframe(strength, start))
    group.set_keyframes_on_hooks(keyframes)
    positive = cond(1, hooks=group)
    native = run(model, steps=24, positive=positive)
    assert distance(native, run(model, steps=24)) > 1e-3, "the hook has no effect"
    assert torch.equal(cached_run(model, mode, SKIP_NONE, steps=24, positive=positive)[0], native)
    _, report = cached_run(model, mode, SKIP_ALL, steps=24, positive=positive)
    (crossed,) = crossings(model, [sigma_at(model, 0.5)], report)
    assert report.records[crossed - 1].skipped and not report.records[crossed].skipped
    assert live_objects() == []
