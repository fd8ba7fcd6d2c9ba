"""Where the user looks or listens decides: sound beside film in one latent, and a masked part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny_models
import torch
from hostile import FAMILY, SKIP_HALF, small_model
from sampling import cached, report_of

from teacache.engine.decision import RunState

pytestmark = pytest.mark.usefixtures("comfy")
SIGMAS = torch.linspace(1.0, 0.0, 21)
FILM, SOUND = (1, 16, 4, 16, 16), (1, 8, 12)
"""Of 16,480 values the sound has .6 %."""
Denoised = Callable[[torch.Tensor], torch.Tensor]
"""Noise level -> what the model makes of the latent, broadcast to it."""


@pytest.fixture(scope="module")
def model(comfy: Any) -> Any:
    return small_model()


def smooth(sigma: torch.Tensor) -> torch.Tensor:
    return 1.0 + 0.1 * sigma


def rough(sigma: torch.Tensor) -> torch.Tensor:
    return 1.0 + torch.sin(20 * sigma)


def sampled(
    model: Any, latent: Any, denoise: Callable[..., Any], mask: torch.Tensor | None = None
) -> Any:
    """An Euler run of a model whose denoised latent is `denoise`(x, sigma)."""
    import comfy.sample
    import comfy.samplers

    clone = model.clone()

    def answer(_: Any, arguments: dict[str, Any]) -> torch.Tensor:
        x: torch.Tensor = arguments["input"]
        sigma = arguments["timestep"].reshape(-1, *[1] * (x.ndim - 1))
        return denoise(x, sigma)

    clone.set_model_unet_function_wrapper(answer)
    noise = comfy.sample.prepare_noise(latent, 3)
    with torch.inference_mode():
        return comfy.sample.sample_custom(
            clone, noise, 1.0, comfy.samplers.sampler_object("euler"), SIGMAS,
            tiny_models.cond(FAMILY, 1), tiny_models.cond(FAMILY, 2), latent,
            noise_mask=mask, disable_pbar=True, seed=3,
        )  # fmt: skip


def film_and_sound(film: Denoised, sound: Denoised) -> Callable[..., torch.Tensor]:
    count = FILM[1] * FILM[2] * FILM[3] * FILM[4]

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        out[..., :count], out[..., count:] = film(sigma), sound(sigma)
        return out + 0.2 * x

    return denoise


def test_the_sound_of_a_film_decides_too(model: Any) -> None:
    from comfy.nested_tensor import NestedTensor

    latent = NestedTensor([torch.zeros(FILM), torch.zeros(SOUND)])
    computed, errors = {}, {}
    for name, parts in {"both smooth": (smooth, smooth), "rough sound": (smooth, rough)}.items():
        denoise = film_and_sound(*parts)
        native = sampled(model, latent, denoise).unbind()
        clone, handle = cached(model, 0.3, mode="forecast")
        got = sampled(clone, latent, denoise).unbind()
        computed[name] = report_of(handle).computed
        errors[name] = [
            float((mine - theirs).norm() / theirs.norm())
            for mine, theirs in zip(got, native, strict=True)
        ]
    assert computed["both smooth"] < computed["rough sound"]
    film, sound = errors["rough sound"]
    assert film < 0.01 and sound < 0.05


@pytest.mark.parametrize("inside", [smooth, rough])
def test_a_masked_part_decides_by_itself(model: Any, inside: Denoised) -> None:
    """What lies outside the mask is replaced afterwards: it is not what the user looks at."""
    region = (..., slice(0, 4), slice(4, 8))
    mask = torch.zeros(1, 1, 16, 16)
    mask[region] = 1
    latent = torch.zeros(1, 16, 16, 16)

    def denoise(outside: Denoised) -> Callable[..., torch.Tensor]:
        def function(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            out = torch.empty_like(x)
            out[:], out[region] = outside(sigma), inside(sigma)
            return out

        return function

    patterns = []
    for outside in (smooth, rough):
        clone, handle = cached(model, 0.25, mode="forecast")
        sampled(clone, latent, denoise(outside), mask)
        patterns.append([record.skipped for record in report_of(handle).records])
    assert patterns[0] == patterns[1]
    clone, handle = cached(model, 0.25, mode="forecast")
    sampled(clone, latent, lambda x, sigma: inside(sigma).expand_as(x))
    assert patterns[0] == [record.skipped for record in report_of(handle).records]


def test_the_tokens_of_a_masked_part_decide(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the faithful mode too: the change of the modulated input, of those tokens alone."""
    import comfy.sample

    masked = (..., slice(0, 4), slice(4, 8))
    mask = torch.zeros(1, 1, 8, 8)
    mask[masked] = 1
    tokens = [2, 3, 6, 7]  # of 4 x 4 patches of 2 x 2
    read: list[torch.Tensor] = []
    keep = RunState.defer_indicator_input

    def noted(self: RunState, state: Any, value: torch.Tensor) -> None:
        read.append(value)
        keep(self, state, value)

    monkeypatch.setattr(RunState, "defer_indicator_input", noted)
    clone, handle = cached(model, SKIP_HALF["faithful"], mode="faithful")
    latent = torch.ones(1, 16, 8, 8)
    noise = comfy.sample.prepare_noise(latent, 3)
    with torch.inference_mode():
        comfy.sample.sample(
            clone, noise, 8, 1.0, "euler", "simple", tiny_models.cond(FAMILY, 1),
            tiny_models.cond(FAMILY, 2), latent, noise_mask=mask, disable_pbar=True, seed=3,
        )  # fmt: skip
    records = report_of(handle).records
    known = [r for r in records if r.distance is not None and r.step < len(read)]
    assert len(known) >= 4
    for record in known:
        before, now = (read[step][:, tokens] for step in (record.step - 1, record.step))
        expected = (now - before).abs().sum() / before.abs().sum()
        assert record.distance == pytest.approx(handle.profile.distance(float(expected)), rel=1e-4)
