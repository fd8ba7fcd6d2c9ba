"""The UNet testbed: ComfyUI's Stable Diffusion 1.5 with the weights of diffusers' UNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

from benchmarks import equal_steps, roughness, testbeds, unet_testbed
from benchmarks.sampling import sample
from benchmarks.testbeds import COMFYUI, DIFFUSERS, Testbed
from teacache.errors import UserError
from training import unet
from training.digits import save_model


@pytest.fixture(scope="module")
def testbed(comfy: Any, tmp_path_factory: pytest.TempPathFactory) -> Testbed:
    """With random weights, none of them zero."""
    torch.manual_seed(0)
    model, text = unet.new_unet(), torch.nn.Embedding(unet.TEXT_ROWS, unet.TEXT_WIDTH)
    torch.nn.init.normal_(model.conv_out.weight, std=0.05)
    parts = torch.nn.ModuleDict({"unet": model, "text": text})
    path = tmp_path_factory.mktemp("weights") / "unet.safetensors"
    save_model(path, parts.state_dict())
    return testbeds.load("unet", path)


def test_the_model_is_comfyuis_own(testbed: Testbed) -> None:
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.model_sampling import EPS, ModelSamplingDiscrete

    model = testbed.patcher.model
    assert type(model.diffusion_model) is UNetModel
    assert isinstance(model.model_sampling, EPS)
    assert isinstance(model.model_sampling, ModelSamplingDiscrete)
    assert float(model.model_sampling.sigma_max) == pytest.approx(14.6146, abs=1e-3)
    shares = unet.signal_shares()
    trained = ((1 - shares) / shares).sqrt()
    torch.testing.assert_close(model.model_sampling.sigmas, trained, rtol=1e-4, atol=0)


def test_both_hosts_draw_the_same_picture(testbed: Testbed) -> None:
    pair, sigmas = testbed.test_pairs(1)[0], testbed.sigmas(4)
    one = sample(testbed, COMFYUI, testbed.patcher, [pair], sigmas)
    other = sample(testbed, DIFFUSERS, testbed.pipe, [pair], sigmas)
    torch.testing.assert_close(one.latents, other.latents, rtol=1e-4, atol=5e-4)
    assert one.computed == other.computed == 4
    frames = testbed.decode(one.latents)
    assert frames.shape == (1, 32, 32, 3) and 0 <= frames.min() < frames.max() <= 1


def test_the_caption_and_the_guidance_reach_the_model(testbed: Testbed) -> None:
    first, second = testbed.test_captions[:2]
    sigmas, drawn = testbed.sigmas(2), []
    for prompt, guidance in ((first, 5.0), (second, 5.0), (first, 2.0)):
        other = testbed.on(unet_testbed.Ground("unet", 20, guidance, scheduler="normal"))
        pair = testbeds.Pair(prompt, 3)
        noise = testbeds.Pair(first, 3)
        assert prompt != first or torch.equal(other.noise(pair), testbed.noise(noise))
        drawn.append(sample(other, COMFYUI, other.patcher, [pair], sigmas).latents)
    assert float((drawn[0] - drawn[1]).abs().mean()) > 1e-3
    assert float((drawn[0] - drawn[2]).abs().mean()) > 1e-4


def test_the_last_blocks_output_is_followed_by_branch(testbed: Testbed) -> None:
    pair = testbed.test_pairs(1)[0]
    with roughness.recorded(testbed) as outputs:
        sample(testbed, COMFYUI, testbed.patcher, [pair], testbed.sigmas(3))
    channels = unet.UNET["block_out_channels"][0]
    assert [each.shape for each in outputs] == [(testbed.branches, channels, 16, 16)] * 3
    changes = roughness.changes(outputs)
    assert len(changes) == 2 and min(changes) > 0
    sample(testbed, COMFYUI, testbed.patcher, [pair], testbed.sigmas(1))
    assert len(outputs) == 3, "nothing is recorded outside"


def test_caches_that_need_no_blocks_are_measured_beside_fewer_steps(
    testbed: Testbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At thresholds that skip nothing and everything; in diffusers against its own picture."""
    for thresholds in ("THRESHOLDS", "EASY_THRESHOLDS"):
        monkeypatch.setattr(equal_steps, thresholds, (1e-9, 30.0))
    ground = unet_testbed.Ground("unet", 8, 5.0, scheduler="normal")
    testbed = testbed.on(ground)
    measured = equal_steps.measure(testbed, ground, testbed.test_pairs(1))
    for name in equal_steps.ways(ground):
        least, most = measured[name]
        assert least == (8, 100.0, 100.0), f"{name}: nothing skipped, nothing changed"
        assert most[0] < 8 and most[1] < 100
    assert [point[0] for point in measured[equal_steps.FEWER_STEPS]] == [6, 5, 4, 4]


def test_captions_are_judged_or_tuned_on(testbed: Testbed) -> None:
    judged, tuned = set(testbed.test_captions), set(testbed.tuning_captions)
    assert len(judged) == len(tuned) == testbeds.TEST_PROMPTS and not judged & tuned
    assert judged | tuned <= set(unet.CAPTIONS)


def test_many_steps_are_not_rounded_to_the_table(testbed: Testbed) -> None:
    exact = testbed.exact_sigmas(400)
    assert len(exact) == 401 and bool((exact.diff() < 0).all())
    simple = testbed.on(unet_testbed.Ground("unet", 20, 5.0))
    torch.testing.assert_close(simple.exact_sigmas(400), exact)
    assert testbed.schedule == "normal" and simple.schedule == "simple"


def test_diffusers_takes_the_steps_that_it_is_given(testbed: Testbed) -> None:
    scheduler = testbed.pipe.scheduler
    scheduler.fixed_sigmas = testbed.sigmas(4)
    with pytest.raises(ValueError, match="5 noise levels are not 3 steps"):
        scheduler.set_timesteps(3)
    scheduler.set_timesteps(4)
    told = testbed.patcher.model.model_sampling.timestep(testbed.sigmas(4)[:-1])
    assert scheduler.timesteps.tolist() == told.tolist()


def test_missing_weights_are_named(comfy: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no .*none.safetensors.*training\.train_unet"):
        testbeds.load("unet", tmp_path / "none.safetensors")
