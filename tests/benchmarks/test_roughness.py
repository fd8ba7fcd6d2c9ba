"""How rough the grounds are, and the photos models on both hosts."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

from benchmarks import roughness, testbeds
from benchmarks.grounds import GROUNDS, ROUGH, SMOOTH, Ground
from benchmarks.sampling import sample
from benchmarks.testbeds import COMFYUI, DIFFUSERS, Pair, Testbed
from teacache.errors import UserError


@pytest.fixture(scope="module")
def photos(comfy: Any) -> Testbed:
    return testbeds.load("photos")


@pytest.fixture(scope="module")
def distilled(comfy: Any) -> Testbed:
    return testbeds.load("photos-distilled")


def test_both_hosts_draw_the_same_photograph(photos: Testbed) -> None:
    pair, sigmas = Pair("hat", 3), photos.sigmas(4)
    torch.testing.assert_close(sigmas, photos.exact_sigmas(4), rtol=0, atol=1e-3)
    one = sample(photos, COMFYUI, photos.patcher, [pair], sigmas)
    other = sample(photos, DIFFUSERS, photos.pipe, [pair], sigmas)
    torch.testing.assert_close(one.latents, other.latents, rtol=0, atol=1e-4)
    assert one.computed == other.computed == 4
    frames = photos.decode(one.latents)
    assert frames.shape == (1, 64, 64, 3) and 0 <= frames.min() < frames.max() <= 1


def test_guidance_is_an_input_of_the_distilled_model_on_both_hosts(distilled: Testbed) -> None:
    """One row for each pair; the strength reaches the model, which follows it."""
    pair, sigmas, drawn = Pair("hat", 3), distilled.sigmas(4), []
    for guidance in (1.5, 6.0):
        testbed = replace(distilled, ground=replace(distilled.ground, guidance=guidance))
        one = sample(testbed, COMFYUI, testbed.patcher, [pair], sigmas)
        other = sample(testbed, DIFFUSERS, testbed.pipe, [pair], sigmas)
        torch.testing.assert_close(one.latents, other.latents, rtol=0, atol=1e-4)
        assert one.computed == other.computed == 4
        drawn.append(one.latents)
    assert float((drawn[0] - drawn[1]).abs().mean()) > 0.05


def test_without_guidance_one_branch_is_a_whole_evaluation(photos: Testbed) -> None:
    testbed = replace(photos, ground=replace(photos.ground, guidance=1.0))
    assert (photos.branches, testbed.branches) == (2, 1)
    for host, target in ((COMFYUI, testbed.patcher), (DIFFUSERS, testbed.pipe)):
        assert sample(testbed, host, target, [Pair("hat", 3)], testbed.sigmas(2)).computed == 2


@pytest.mark.parametrize("model", ["demo", "photos", "photos-distilled"])
def test_the_stacks_output_is_followed_by_branch(comfy: Any, model: str) -> None:
    """Of the image alone, in all branches of guidance, at every step."""
    testbed = testbeds.load(model)
    recorder = roughness.StackOutputs(testbed.patcher.model.diffusion_model)
    pair = Pair(testbed.test_captions[0], 1)
    with recorder.recorded() as outputs:
        sample(testbed, COMFYUI, testbed.patcher, [pair], testbed.sigmas(3))
    assert [each.shape[:2] for each in outputs] == [(testbed.branches, 64)] * 3
    by_hand = [
        max(float((a - b).abs().sum() / b.abs().sum()) for a, b in zip(now, before, strict=True))
        for before, now in pairwise(outputs)
    ]
    assert roughness.changes(outputs) == pytest.approx(by_hand, rel=1e-5)
    sample(testbed, COMFYUI, testbed.patcher, [pair], testbed.sigmas(1))
    assert len(outputs) == 3, "nothing is recorded outside"


def test_a_row_shows_a_curve_as_the_published_ones_are() -> None:
    curve = [2.14, 0.6, 0.57, 0.27, 0.25, 0.18, 0.06, 0.14, 0.1, 0.22, 0.29, 0.32, 0.56]
    published = roughness.PUBLISHED["Qwen-Image, 20 steps, guidance 4"]
    assert roughness.row("x", curve) == ["x", *published]
    assert roughness.row("short", [0.5] * 8)[2] == "-"


def test_the_grounds_are_told_apart_by_their_names() -> None:
    assert len({ground.name for ground in GROUNDS}) == len(GROUNDS)
    assert {ground.kind for ground in GROUNDS} == {SMOOTH, ROUGH}
    unusual = Ground("demo", 20, 4.0, "dpmpp_2m", "beta")
    assert unusual.name == "demo, 20 steps, guidance 4, dpmpp_2m, beta"


def test_a_ground_without_its_weights_says_which_command_makes_them(
    comfy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, module in (("photos", "train_photos"), ("photos-distilled", "distill_photos")):
        with pytest.raises(UserError, match=rf"no .*none.*python -m training\.{module}"):
            testbeds.load(name, tmp_path / "none.safetensors")
    monkeypatch.setattr(testbeds, "DIGITS_WEIGHTS", tmp_path / "digits.safetensors")
    (row,) = roughness.rows_of([Ground("digits", 20, 5.0)], 1)
    assert row[0] == "digits, 20 steps, guidance 5 (rough)"
    assert row[1].startswith("not measured: ") and "python -m training.train_digits" in row[1]
