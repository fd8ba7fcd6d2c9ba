"""The photos models: their latents, and their files sampled by diffusers' own FLUX pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from paths import ROOT
from safetensors.torch import save_file

from training import photos

MODELS = ROOT / "models" / "photos"


def test_latents_are_pictures() -> None:
    """All but the fine detail of colour comes back; noise of unit size is in its range."""
    rows = torch.linspace(-0.9, 0.9, photos.SIZE)
    grey = torch.stack([rows[:, None] * rows[None, :]] * 3)
    soft = torch.stack([rows.repeat(photos.SIZE, 1), rows.repeat(photos.SIZE, 1).T, grey[0]])
    pictures = torch.stack([grey, soft])
    latents = photos.to_latent(pictures)
    assert latents.shape == (2, *photos.LATENT)
    error = (photos.to_picture(latents) - pictures)[..., 2:-2, 2:-2].abs().amax((1, 2, 3))
    assert error[0] < 1e-5 and error[1] < 0.02


def test_packing_is_undone_and_is_the_pipelines() -> None:
    from diffusers import FluxPipeline

    latents = torch.randn(2, *photos.LATENT, generator=torch.Generator().manual_seed(1))
    tokens = photos.pack(latents)
    assert torch.equal(tokens, FluxPipeline._pack_latents(latents, 2, *photos.LATENT))
    assert torch.equal(photos.unpack(tokens), latents)


@pytest.mark.parametrize("name", ["photos", "photos_distilled"])
def test_sampling_is_that_of_the_pipeline(name: str) -> None:
    """With two branches, or with guidance as an input, as FLUX.1-dev has it."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    transformer, text = photos.load_model(MODELS / f"{name}.safetensors")
    distilled = name == "photos_distilled"
    assert transformer.config.guidance_embeds is distilled
    noise = torch.randn(2, *photos.LATENT, generator=torch.Generator().manual_seed(2))
    captions, steps = ["pants", "shirt"], 4
    own = photos.sample(transformer, text, captions, noise, photos.schedule(steps))
    pipe = FluxPipeline(
        FlowMatchEulerDiscreteScheduler(), None, None, None, None, None, transformer
    )
    pipe.set_progress_bar_config(disable=True)
    negative = {f"negative_{key}": value for key, value in photos.embed(text, ["", ""]).items()}
    two_branches = {**negative, "true_cfg_scale": photos.GUIDANCE}
    (packed,) = pipe(
        **photos.embed(text, captions),
        **({"guidance_scale": photos.GUIDANCE} if distilled else two_branches),
        sigmas=photos.schedule(steps)[:-1].tolist(),
        latents=photos.pack(noise),
        height=128,
        width=128,
        output_type="latent",
        return_dict=False,
    )
    torch.testing.assert_close(photos.unpack(packed), own, atol=1e-4, rtol=0)
    pictures = photos.to_picture(own)
    assert pictures.isfinite().all() and float((pictures[0] - pictures[1]).abs().mean()) > 0.05


def test_what_is_no_caption_and_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"empty or one of dress, .*, t-shirt, not 'boot'"):
        photos.numbers(["hat", "boot"])
    foreign = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, foreign)
    with pytest.raises(ValueError, match="holds no photos model"):
        photos.load_model(foreign)
