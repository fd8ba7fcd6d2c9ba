"""The photos models as testbeds: a small FLUX transformer, as rough as few others of its size.

One has two branches of guidance. The other is guidance-distilled, as FLUX.1-dev is: one branch, and
the strength of guidance is an input.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline
from torch import Tensor

from benchmarks.grounds import Ground
from benchmarks.testbeds import COMFYUI, DIFFUSERS, STEPS, FixedSigmasScheduler, Testbed
from training import photos
from training.data import ROOT

WEIGHTS = ROOT.parent / "models" / "photos"
PHOTOS = {
    "photos": (WEIGHTS / "photos.safetensors", "train_photos"),
    "photos-distilled": (WEIGHTS / "photos_distilled.safetensors", "distill_photos"),
}
"""For each testbed: its weights, and the module of `training` that makes them."""
PIXELS_PER_POSITION = 8
"""What diffusers' `FluxPipeline` takes a position of a latent for; here it is 4 pixels."""


class FluxTestbedPipeline(FluxPipeline):  # type: ignore[misc]
    """A subclass that cache-dit may patch; it recognises pipelines by how the name begins."""


def load_photos_testbed(weights: Path) -> Testbed:
    """A testbed; its captions are ten classes, so that pairs differ by their seeds.

    Args:
        weights: of `training.photos`; they tell which testbed it is.
    """
    transformer, text = photos.load_model(weights)
    pipe = FluxTestbedPipeline(
        scheduler=FixedSigmasScheduler(shift=1.0), vae=None, text_encoder=None, tokenizer=None,
        text_encoder_2=None, tokenizer_2=None, transformer=transformer,
    )  # fmt: skip
    patcher = flux_in_comfyui(transformer)
    side = photos.LATENT[-1] * PIXELS_PER_POSITION
    middle = len(transformer.single_transformer_blocks) // 2
    distilled: bool = transformer.config.guidance_embeds

    def decode(latents: Tensor) -> Tensor:
        return (photos.to_picture(latents) / 2 + 0.5).clamp(0, 1).movedim(1, -1).contiguous()

    return Testbed(
        Ground("photos-distilled" if distilled else "photos", STEPS, photos.GUIDANCE),
        f"FLUX type, {'guidance-distilled, ' if distilled else ''}"
        f"{len(transformer.transformer_blocks)} double and "
        f"{len(transformer.single_transformer_blocks)} single blocks, 64 x 64 photographs",
        photos.CLASSES,
        photos.CLASSES,
        patcher,
        pipe,
        lambda captions: photos.embed(text, captions),
        {"height": side, "width": side},
        photos.LATENT,
        decode,
        {
            COMFYUI: patcher.model.diffusion_model.single_blocks[middle].linear2,
            DIFFUSERS: transformer.single_transformer_blocks[middle].proj_out,
        },
        is_video=False,
        shift=photos.SHIFT,
        guidance_argument="guidance_scale" if distilled else "true_cfg_scale",
        to_pipeline=photos.pack,
        from_pipeline=photos.unpack,
        distilled=distilled,
    )


def flux_in_comfyui(transformer: Any) -> Any:
    """A `ModelPatcher` of ComfyUI's FLUX model with the weights of diffusers' `transformer`."""
    import comfy.latent_formats
    import comfy.model_patcher
    import comfy.supported_models
    import comfy.utils
    from comfy.ldm.flux.model import FluxParams

    class Plain(comfy.latent_formats.LatentFormat):  # type: ignore[misc]
        """Latents that the model takes as they are."""

        latent_channels = photos.LATENT[0]

    ours = photos.TRANSFORMER
    shape = {
        "depth": ours["num_layers"],
        "depth_single_blocks": ours["num_single_layers"],
        "hidden_size": ours["num_attention_heads"] * ours["attention_head_dim"],
    }
    # Newer versions ask for the axes on which text tokens have a position: none.
    asked = {field.name for field in dataclasses.fields(FluxParams)}
    newer: dict[str, Any] = {"txt_ids_dims": []} if "txt_ids_dims" in asked else {}
    config = comfy.supported_models.FluxSchnell(
        {
            **shape,
            **newer,
            "image_model": "flux",
            "in_channels": photos.LATENT[0],
            "out_channels": photos.LATENT[0],
            "patch_size": 2,
            "vec_in_dim": photos.TEXT_WIDTH,
            "context_in_dim": photos.TEXT_WIDTH,
            "mlp_ratio": 4.0,
            "num_heads": ours["num_attention_heads"],
            "axes_dim": list(ours["axes_dims_rope"]),
            "theta": 10000,
            "qkv_bias": True,
            "guidance_embed": transformer.config.guidance_embeds,
        }
    )
    config.latent_format = Plain()
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "").eval()
    names = comfy.utils.flux_to_diffusers(shape, output_prefix="")
    model.diffusion_model.load_state_dict(
        renamed(transformer.state_dict(), names, model.diffusion_model.state_dict())
    )
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)


def renamed(
    weights: dict[str, Tensor], names: dict[str, Any], like: dict[str, Tensor]
) -> dict[str, Tensor]:
    """diffusers' FLUX weights under ComfyUI's names.

    Args:
        weights: by diffusers' names.
        names: of `comfy.utils.flux_to_diffusers`: diffusers' name -> ComfyUI's, or (ComfyUI's,
            (dimension, start, length) of the part of it or None, function of the weight or none).
        like: ComfyUI's weights, for their shapes.
    """
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        place = names[name]
        if isinstance(place, str):
            found[place] = weight
            continue
        target, part, *change = place
        value = change[0](weight) if change and change[0] is not None else weight
        if part is None:
            found[target] = value
        else:
            whole = found.setdefault(target, torch.zeros_like(like[target]))
            whole.narrow(*part).copy_(value)
    return found
