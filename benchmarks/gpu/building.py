"""A model of a given size as a testbed on one host, with random weights on a device."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import diffusers
import torch
from einops import rearrange
from torch import Tensor, nn

from benchmarks.gpu.models import Architecture, ModelSize
from benchmarks.gpu.weights import FP8, fill, in_type, without_memory
from benchmarks.grounds import Ground
from benchmarks.testbeds import COMFYUI, STEPS, FixedSigmasScheduler, Testbed
from benchmarks.unet_testbed import FixedSigmasEuler
from training.unet import BETAS

CAPTION = "a"
"""The only caption; the other branch of guidance has the empty one."""
EULER: dict[str, Any] = {
    "beta_start": BETAS[0],
    "beta_end": BETAS[1],
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
"""The noise levels that SDXL was trained with, which are those of Stable Diffusion 1.5."""


def build(
    size: ModelSize, host: str, device: torch.device, fp8: bool = False, dtype: Any = torch.bfloat16
) -> Testbed:
    """The testbed; it exists on `host` alone. ComfyUI must be booted.

    Args:
        fp8: keep the weights in 8 bits, and compute in `dtype`, by the host's own means.
    """
    architecture = size.hosts[host]
    device = torch.empty(0, device=device).device  # with its number
    patcher = pipe = None
    if host == COMFYUI:
        patcher = comfyui_model(architecture, size, device, dtype, fp8)
        denoiser = patcher.model.diffusion_model
    else:
        denoiser = diffusers_model(architecture, device, dtype, fp8)
        pipe = pipeline_of(size, denoiser)
    to_pipeline, from_pipeline = _packing(size, device, dtype)
    return Testbed(
        Ground(size.name, STEPS, size.guidance),
        size.title,
        (CAPTION,),
        (CAPTION,),
        patcher,
        pipe,
        _embed(size, device, dtype),
        dict(size.size),
        size.latent,
        lambda latents: latents,
        {host: denoiser.get_submodule(architecture.middle)},
        is_video="num_frames" in size.size,
        shift=size.shift,
        guidance_argument=size.guidance_argument,
        to_pipeline=to_pipeline,
        from_pipeline=from_pipeline,
        distilled=size.distilled,
    )


def denoiser_of(testbed: Testbed) -> nn.Module:
    """The model of a testbed that exists on one host."""
    if testbed.patcher is None:
        return testbed.denoiser
    model: nn.Module = testbed.patcher.model.diffusion_model
    return model


def sigmas_of(testbed: Testbed, steps: int) -> Tensor:
    """Its noise levels [steps + 1]."""
    if testbed.shift is not None:
        return testbed.exact_sigmas(steps)
    scheduler = diffusers.EulerDiscreteScheduler(**EULER)
    scheduler.set_timesteps(steps)
    sigmas: Tensor = scheduler.sigmas
    return sigmas


# --- ComfyUI -------------------------------------------------------------------------------------


def comfyui_model(
    architecture: Architecture,
    size: ModelSize,
    device: torch.device,
    dtype: torch.dtype = torch.bfloat16,
    fp8: bool = False,
) -> Any:
    """A `ModelPatcher`; on the meta device its weights have no memory."""
    import comfy.model_patcher
    import comfy.supported_models

    kind = getattr(comfy.supported_models, architecture.name)
    arguments = {**architecture.arguments, **_newer_arguments(architecture)}
    config = kind({**kind.unet_config, **arguments})
    config.unet_config.update(arguments)
    if size.shift is not None:
        config.sampling_settings = {**config.sampling_settings, "shift": size.shift}
    config.set_inference_dtype(FP8 if fp8 else dtype, dtype if fp8 else None)
    with without_memory():
        model = config.get_model({}, "")
    model.eval().requires_grad_(False)
    if device.type != "meta":
        fill(model.diffusion_model, device)
    model.to(device)
    return comfy.model_patcher.ModelPatcher(model, device, device)


def _newer_arguments(architecture: Architecture) -> dict[str, Any]:
    """What newer versions of ComfyUI ask for beside: on which axes text tokens have a position."""
    from comfy.ldm.flux.model import FluxParams

    asked = (
        architecture.name == "Flux" and "txt_ids_dims" in inspect.signature(FluxParams).parameters
    )
    return {"txt_ids_dims": []} if asked else {}


# --- diffusers -----------------------------------------------------------------------------------


def diffusers_model(
    architecture: Architecture,
    device: torch.device,
    dtype: torch.dtype = torch.bfloat16,
    fp8: bool = False,
) -> Any:
    """A transformer or UNet; on the meta device its weights have no memory."""
    kind = getattr(diffusers, architecture.name)
    with without_memory():
        model = kind(**architecture.arguments)
    in_type(model, dtype, in_float32=tuple(kind._keep_in_fp32_modules or ()))
    if fp8:  # before there is memory, of which twice as much would be needed
        model.enable_layerwise_casting(storage_dtype=FP8, compute_dtype=dtype)
    if device.type != "meta":
        fill(model, device)
    return model.to(device).eval().requires_grad_(False)


def pipeline_of(size: ModelSize, denoiser: Any) -> Any:
    """The pipeline around `denoiser`, without text encoders and autoencoder."""
    kind = getattr(diffusers, size.pipeline)
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    parts: dict[str, Any] = {
        each.name: None for each in parameters if each.default is inspect.Parameter.empty
    }
    part = "unet" if "unet" in parts else "transformer"
    scheduler = FixedSigmasEuler(**EULER) if size.shift is None else FixedSigmasScheduler(shift=1.0)
    pipe = kind(**{**parts, "scheduler": scheduler, part: denoiser})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _embed(size: ModelSize, device: torch.device, dtype: torch.dtype) -> Any:
    text = size.text

    def embed(captions: Sequence[str]) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(sum(map(len, captions)))

        def random(*shape: int) -> Tensor:
            return torch.randn(len(captions), *shape, generator=generator).to(device, dtype)

        made = {"prompt_embeds": random(text.tokens, text.width)}
        if text.pooled is not None:
            made["pooled_prompt_embeds"] = random(text.pooled)
        if text.masked:
            made["prompt_embeds_mask"] = torch.ones(
                len(captions), text.tokens, dtype=torch.long, device=device
            )
        return made

    return embed


def _packing(size: ModelSize, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """Functions that bring latents into the pipeline's form and back."""
    height, width = (length // 2 for length in size.latent[-2:])

    def to_pipeline(latents: Tensor) -> Tensor:
        latents = latents.to(device, dtype)
        if not size.packed:
            return latents
        flat = latents.reshape(-1, size.latent[0], 2 * height, 2 * width)
        return rearrange(flat, "n c (h p) (w q) -> n (h w) (c p q)", p=2, q=2)

    def from_pipeline(latents: Tensor) -> Tensor:
        if not size.packed:
            return latents
        flat = rearrange(latents, "n (h w) (c p q) -> n c (h p) (w q)", h=height, p=2, q=2)
        return flat.reshape(-1, *size.latent)

    return to_pipeline, from_pipeline
