"""Conds of every kind: areas, masks, ranges, ControlNets, LoRAs with a schedule of their own."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from foreign_conds import Control, cond, lora, lora_with_keyframes
from hostile import (
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


def test_a_cond_that_appears_is_computed_with_residuals_in_the_forecast_too(model: Any) -> None:
    positive = cond(1, end_percent=0.6) + cond(3, start_percent=0.3)
    native = run(model, steps=24, positive=positive)
    never, _ = cached(model, SKIP_NONE, mode="forecast", cached="residual")
    assert torch.equal(run(never, steps=24, positive=positive), native)
    clone, handle = cached(model, SKIP_ALL, mode="forecast", cached="residual")
    got, report = run(clone, steps=24, positive=positive), report_of(handle)
    for place in crossings(model, [sigma_at(model, 0.3), sigma_at(model, 0.6)], report):
        assert not report.records[place].skipped
    assert skip_pattern(report).count("s") >= 8 and torch.isfinite(got).all()


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


class Keyframe:
    """A strength, and the share of the run from which it holds."""

    def __init__(self, start_percent: float, strength: float) -> None:
        self.start_percent, self.strength = start_percent, strength


class KeyframeGroup:
    def __init__(self, keyframes: list[Keyframe]) -> None:
        self.keyframes = keyframes


def keyframed(
    form: str, strengths: tuple[tuple[float, float], ...], gave: list[tuple[float, float]]
) -> Any:
    """A ControlNet whose strength has keyframes, as another pack makes them.

    Args:
        form: `group with levels`: in a group, and the noise levels are set before the first step;
            `list`: as a list of shares of the run; `outside`: it has none, but something outside
            sets the strength itself, as a callback of a sampler does.
        gave: gets the noise level and the strength of each call.
    """
    from comfy.controlnet import ControlBase

    class Keyframed(ControlBase):
        def __init__(self) -> None:
            super().__init__()
            self.frames = [Keyframe(*given) for given in strengths]
            if form == "group with levels":
                self.timestep_keyframes = KeyframeGroup(self.frames)
            elif form == "list":
                self.strength_keyframes = self.frames
            self.levels: list[float] = []
            self.current: Keyframe | None = None

        def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
            super().pre_run(model, percent_to_timestep_function)
            self.levels = [percent_to_timestep_function(f.start_percent) for f in self.frames]
            if form == "group with levels":
                for frame, level in zip(self.frames, self.levels, strict=True):
                    vars(frame)["start_t"] = level

        def at(self, sigma: float) -> Keyframe:
            pairs = zip(self.frames, self.levels, strict=True)
            return [frame for frame, level in pairs if level >= sigma][-1]

        def get_control(self, x: Any, t: Any, *more: Any) -> Any:
            strength = self.strength
            if form != "outside":
                self.current = self.at(float(t[0]))
                strength *= self.current.strength
            gave.append((float(t[0]), strength))
            tokens = (x.shape[2] // 2) * (x.shape[3] // 2)
            adds = strength * torch.linspace(-1.0, 1.0, tokens * 128).view(1, tokens, 128)
            if self.previous_controlnet is not None:
                adds = adds + self.previous_controlnet.get_control(x, t, *more)["output"][0]
            return {"output": [adds, adds], "input": [], "middle": []}

        def copy(self) -> Any:
            made = Keyframed()
            self.copy_to(made)
            return made

    return Keyframed()


@both_modes
@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("form", ["group with levels", "list", "outside"])
def test_a_controlnet_is_computed_when_its_strength_changes(
    model: Any, form: str, chained: bool, mode: str
) -> None:
    """Also where it is not the last of a chain of ControlNets."""
    from comfy.patcher_extension import WrappersMP

    import nodes
    from teacache.hosts.comfyui.patch import KEY

    strengths = ((0.0, 0.2), (0.3, 1.0), (0.6, 0.0))
    gave: list[tuple[float, float]] = []
    positive, negative = cond(1), cond(2)
    image, nets = torch.zeros(1, 32, 32, 3), [keyframed(form, strengths, gave)]
    if chained:
        nets.append(keyframed("list", ((0.0, 0.5),), []))
    for net in nets:
        positive, negative = nodes.ControlNetApplyAdvanced().apply_controlnet(
            positive, negative, net, image, 1.0, 0.0, 1.0
        )
    conds = {"positive": positive, "negative": negative, "steps": 24}

    def set_strength(predict: Any, x: Any, timestep: Any, *args: Any, **options: Any) -> Any:
        guider = predict.class_obj
        for entries in guider.conds.values():
            control = entries[0]["control"]
            control = control.previous_controlnet or control
            control.strength = control.at(float(timestep[0])).strength
        return predict(x, timestep, *args, **options)

    def prepared(patcher: Any) -> Any:
        clone = patcher.clone()
        if form == "outside":
            clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "strength", set_strength)
        return clone

    native = run(prepared(model), **conds)
    assert distance(native, run(model, steps=24)) > 1e-3, "the control has no effect"
    assert {strength for _, strength in gave} == {0.2, 1.0, 0.0}
    for threshold in (SKIP_NONE, SKIP_ALL):
        clone, handle = cached(prepared(model), threshold, mode=mode)
        got = run(clone, **conds)
        report = report_of(handle)
        if threshold == SKIP_NONE:
            assert torch.equal(got, native)
            continue
        crossed = crossings(model, [sigma_at(model, 0.3), sigma_at(model, 0.6)], report)
        assert len(crossed) == 2 and report.skipped >= 8
        for place in crossed:
            assert report.records[place].reason is Reason.MISMATCH, (place, skip_pattern(report))
    assert KEY in clone.wrappers[WrappersMP.OUTER_SAMPLE] and live_objects() == []


# --- LoRA -----------------------------------------------------------------------------------------


@both_modes
def test_a_lora_before_and_behind_the_cache(model: Any, mode: str) -> None:
    before = model.clone()
    before.add_patches(lora(model))
    expected, report = cached_run(before, mode, steps=12)
    behind, handle = cached(model, SKIP_HALF[mode], mode=mode)
    behind.add_patches(lora(model))
    assert torch.equal(run(behind, steps=12), expected)
    assert skip_pattern(report_of(handle)) == skip_pattern(report) and report.skipped
    assert distance(expected, cached_run(model, mode, steps=12)[0]) > 1e-3
    native = run(before, steps=12)
    assert torch.equal(cached_run(before, mode, SKIP_NONE, steps=12)[0], native)


@both_modes
def test_a_lora_with_keyframes_is_computed_when_its_strength_changes(model: Any, mode: str) -> None:
    positive = cond(1, hooks=lora_with_keyframes(model, {0.0: 0.0, 0.5: 4.0}))
    native = run(model, steps=24, positive=positive)
    assert distance(native, run(model, steps=24)) > 1e-3, "the hook has no effect"
    assert torch.equal(cached_run(model, mode, SKIP_NONE, steps=24, positive=positive)[0], native)
    _, report = cached_run(model, mode, SKIP_ALL, steps=24, positive=positive)
    (crossed,) = crossings(model, [sigma_at(model, 0.5)], report)
    assert report.records[crossed - 1].skipped and not report.records[crossed].skipped
    assert live_objects() == []
