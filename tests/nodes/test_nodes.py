"""The nodes: what they make of their widgets, and what they say."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest
import tiny_models
import torch
from node_calls import prepared
from sampling import sample


@pytest.fixture
def node(pack: ModuleType, server: Any) -> Any:
    """Calls a node of the pack as ComfyUI does: (class id, inputs) -> (outputs, lines shown)."""

    def call(class_id: str, **inputs: Any) -> tuple[tuple[Any, ...], list[str]]:
        before = len(server.sent)
        out = prepared(class_id).EXECUTE_NORMALIZED(**inputs)
        lines = [data["text"] for event, data in server.sent[before:] if event == "text"]
        return out.result, lines

    return call


@pytest.fixture(scope="module")
def sd3(comfy: Any) -> Any:
    return tiny_models.build("sd3")


@pytest.mark.parametrize(
    ("inputs", "line"),
    [
        ({}, "forecast · threshold 0.2 (recommended)"),
        ({"rel_l1_thresh": 0.35}, "forecast · threshold 0.35 (set)"),
        ({"rel_l1_thresh": 0.0}, "forecast · off"),
        ({"auto_threshold": False}, "forecast · threshold 0.2 (set)"),
        ({"predictor": "linear"}, "prediction, rate, linear · threshold 0.2 (recommended)"),
        ({"profile": "sd3-uncalibrated"}, "forecast · threshold 0.2 (recommended) · profile"),
        (
            {"mode": "faithful"},
            "faithful · threshold 0.2 (recommended) · profile sd3-uncalibrated, uncalibrated",
        ),
    ],
)
def test_apply_says_what_it_recognised(node: Any, sd3: Any, inputs: dict, line: str) -> None:
    _, lines = node("ApplyTeaCache", model=sd3, **inputs)
    assert len(lines) == 1 and lines[0].startswith(f"Stable Diffusion 3 / 3.5 · {line}"), lines


def test_untouched_widget_takes_the_familys_threshold(node: Any, comfy: Any) -> None:
    flux = tiny_models.build("flux1")
    _, lines = node("ApplyTeaCache", model=flux, mode="faithful")
    assert lines == ["FLUX.1 · faithful · threshold 0.25 (recommended) · profile flux1-dev"]


def test_a_second_cache_replaces_the_first_and_says_so(node: Any, sd3: Any) -> None:
    (once,), _ = node("ApplyTeaCache", model=sd3, rel_l1_thresh=0.3)
    (twice,), lines = node("ApplyTeaCache", model=once, rel_l1_thresh=0.1)
    assert "replaces an earlier Apply TeaCache" in lines[0]
    (alone,), _ = node("ApplyTeaCache", model=sd3, rel_l1_thresh=0.1)
    assert torch.equal(sample(twice, "sd3"), sample(alone, "sd3"))


def test_report_shows_the_run_of_its_latent(node: Any, sd3: Any) -> None:
    (model,), _ = node("ApplyTeaCache", model=sd3, rel_l1_thresh=90.0, mode="faithful")
    samples = sample(model, "sd3", steps=7)
    (picture, text), _ = node("TeaCacheReport", latent={"samples": samples}, model=model)
    report = json.loads(text)
    assert (report["steps"], report["skipped"]) == (7, 5)
    assert picture.ndim == 4 and picture.shape[-1] == 3
    assert 0.0 <= picture.min() < 0.5 < picture.max() <= 1.0


def test_report_without_a_cache_or_a_run_says_what_to_connect(node: Any, sd3: Any) -> None:
    latent = {"samples": torch.zeros(1, 16, 8, 8)}
    with pytest.raises(ValueError, match="model: no Apply TeaCache is on it"):
        node("TeaCacheReport", latent=latent, model=sd3)
    (model,), _ = node("ApplyTeaCache", model=sd3)
    with pytest.raises(ValueError, match="latent: this model has not sampled yet"):
        node("TeaCacheReport", latent=latent, model=model)


def test_a_unet_is_forecast_only(node: Any, comfy: Any) -> None:
    unet = tiny_models.unet(context=32)
    (model,), lines = node("ApplyTeaCache", model=unet)
    assert lines[0].endswith("forecast only: the faithful mode needs to know the blocks")
    (off,), _ = node("ApplyTeaCache", model=unet, rel_l1_thresh=0.0)
    context = [[torch.zeros(1, 5, 32), {}]]
    latent = torch.zeros(1, 4, 8, 8)
    arguments = dict(positive=context, negative=context, latent=latent, steps=4)
    native = sample(unet, "sd3", **arguments)
    assert native.isfinite().all() and sample(model, "sd3", **arguments).isfinite().all()
    assert torch.equal(sample(off, "sd3", **arguments), native)


def test_a_model_without_steps_to_skip_is_left_as_it_is(node: Any, comfy: Any) -> None:
    alone = tiny_models.left_alone()
    (model,), lines = node("ApplyTeaCache", model=alone)
    assert lines and "the model is left as it is" in lines[0]
    assert torch.equal(sample(model, "sd3"), sample(alone, "sd3"))


def test_lora_and_custom_sampling(node: Any, sd3: Any) -> None:
    """Weights patched by a LoRA, and the guider-based sampler nodes."""
    import comfy.samplers
    from comfy_extras import nodes_custom_sampler as custom

    patched = sd3.clone()
    key = "diffusion_model.joint_blocks.1.x_block.mlp.fc1.weight"
    weight = sd3.model_state_dict()[key]
    patched.add_patches({key: (torch.ones_like(weight) * 0.05,)})
    native = sample(patched, "sd3")
    assert not torch.equal(native, sample(sd3, "sd3")), "the patch has no effect"
    (cached,), _ = node("ApplyTeaCache", model=patched, rel_l1_thresh=1e-12)
    assert torch.equal(sample(cached, "sd3"), native)

    (cached,), _ = node("ApplyTeaCache", model=patched, rel_l1_thresh=0.2)
    expected = sample(cached, "sd3", steps=8, seed=3)
    guider = comfy.samplers.CFGGuider(cached)
    guider.set_conds(tiny_models.cond("sd3", 1), tiny_models.cond("sd3", 2))
    guider.set_cfg(3.0)
    sigmas = comfy.samplers.calculate_sigmas(cached.get_model_object("model_sampling"), "simple", 8)
    with torch.inference_mode():
        out = custom.SamplerCustomAdvanced.execute(
            custom.Noise_RandomNoise(3),
            guider,
            comfy.samplers.sampler_object("euler"),
            sigmas,
            {"samples": tiny_models.latent("sd3")},
        )
    torch.testing.assert_close(out.result[0]["samples"], expected, rtol=1e-5, atol=1e-5)
