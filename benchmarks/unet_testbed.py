"""The UNet model as a testbed: the classes of Stable Diffusion 1.5, small, predicting noise."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline
from torch import Tensor

from benchmarks.grounds import Ground
from benchmarks.testbeds import COMFYUI, DIFFUSERS, TEST_PROMPTS, Testbed
from training import unet
from training.data import ROOT

WEIGHTS = ROOT.parent / "models" / "unet" / "unet.safetensors"
PIXELS_PER_POSITION = 8
"""What diffusers' `StableDiffusionPipeline` takes a position of a latent for; here it is 2."""


class FixedSigmasEuler(EulerDiscreteScheduler):  # type: ignore[misc]
    """Euler steps at the noise levels in `fixed_sigmas`, which the caller sets."""

    fixed_sigmas: Tensor

    def set_timesteps(self, num_inference_steps: int, device: Any = None, **_: Any) -> None:
        """Set `fixed_sigmas`, whichever levels the pipeline asks for.

        The UNet is told the nearest of its training's levels, as in ComfyUI.
        """
        steps = len(self.fixed_sigmas) - 1
        if num_inference_steps != steps:
            raise ValueError(f"{steps + 1} noise levels are not {num_inference_steps} steps")
        shares = unet.signal_shares()
        known = ((1 - shares) / shares).sqrt().log()
        distances = (self.fixed_sigmas[:-1].log() - known[:, None]).abs()
        self.num_inference_steps = steps
        self.sigmas = self.fixed_sigmas.clone()
        self.timesteps = distances.argmin(dim=0).float().to(device)
        self._step_index = self._begin_index = None


class StableDiffusionTestbedPipeline(StableDiffusionPipeline):  # type: ignore[misc]
    """A subclass, as those of the other testbeds."""


def load_unet_testbed(weights: Path) -> Testbed:
    """The testbed; captions are four digits."""
    model, text = unet.load_model(weights)
    scheduler = FixedSigmasEuler(
        beta_start=unet.BETAS[0], beta_end=unet.BETAS[1], beta_schedule="scaled_linear",
        timestep_spacing="leading", steps_offset=1,
    )  # fmt: skip
    pipe = StableDiffusionTestbedPipeline(
        vae=None, text_encoder=None, tokenizer=None, unet=model, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    patcher = unet_in_comfyui(model)

    def decode(latents: Tensor) -> Tensor:
        grey = unet.to_picture(latents) / 2 + 0.5
        return grey.movedim(1, -1).repeat(1, 1, 1, 3)

    side = unet.LATENT[-1] * PIXELS_PER_POSITION
    captions = random.Random(2411).sample(unet.CAPTIONS, 2 * TEST_PROMPTS)
    return Testbed(
        Ground("unet", 20, 5.0, scheduler="normal"),
        f"Stable Diffusion 1.5 type, UNet of {len(unet.UNET['block_out_channels'])} levels, "
        "32 x 32 pictures",
        tuple(captions[:TEST_PROMPTS]),
        tuple(captions[TEST_PROMPTS:]),
        patcher,
        pipe,
        lambda prompts: {"prompt_embeds": unet.embed(text, prompts)},
        {"height": side, "width": side},
        unet.LATENT,
        decode,
        {
            COMFYUI: patcher.model.diffusion_model.middle_block[0],
            DIFFUSERS: model.mid_block.resnets[0],
        },
        is_video=False,
        shift=None,
    )


def unet_in_comfyui(model: Any) -> Any:
    """A `ModelPatcher` of ComfyUI's Stable Diffusion 1.5 with the weights of diffusers' `model`."""
    import comfy.model_patcher
    import comfy.supported_models
    import comfy.utils

    ours = unet.UNET
    channels, repeats = ours["block_out_channels"], ours["layers_per_block"]
    down = [int("CrossAttn" in name) for name in ours["down_block_types"]]
    kind = comfy.supported_models.SD15
    config = kind(
        {
            **kind.unet_config,
            "image_size": ours["sample_size"],
            "in_channels": ours["in_channels"],
            "out_channels": ours["out_channels"],
            "model_channels": channels[0],
            "channel_mult": [each // channels[0] for each in channels],
            "num_res_blocks": [repeats] * len(channels),
            "transformer_depth": [depth for depth in down for _ in range(repeats)],
            "transformer_depth_output": [depth for depth in down for _ in range(repeats + 1)],
            "transformer_depth_middle": 1,
            "use_spatial_transformer": True,
            "context_dim": ours["cross_attention_dim"],
            "legacy": False,
        }
    )
    config.set_inference_dtype(torch.float32, None)
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    made = config.get_model({}, "").eval()
    made.diffusion_model.load_state_dict(
        {names[name]: value for name, value in model.state_dict().items()}
    )
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(made, cpu, cpu)
