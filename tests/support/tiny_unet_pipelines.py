"""Tiny pipelines around a UNet, of diffusers' own classes with random weights.

Prompts are passed as embeddings; there are no text encoders. Every call returns latents.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from tiny_pipelines import TOKENS, image, kl_vae, noise, set_weights
from torch import nn

STEPS = 20
WIDTH = 16
"""Of the text embeddings."""
POOLED = 8
SIZE = 32
"""Of a picture, in pixels: 16 x 16 in the latent."""
TRAINED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
"""The noise that SD 1.5 and SDXL were trained with."""
SCHEDULERS: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1},
    "EulerDiscreteScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "PNDMScheduler": {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1},
    "UniPCMultistepScheduler": {},
}
"""Settings of deterministic schedulers of diffusers, as pipelines of SD 1.5 and SDXL have them."""


def scheduler(name: str, kind: str = "epsilon", **settings: Any) -> Any:
    """A scheduler of diffusers. kind: its `prediction_type`."""
    import diffusers

    given = {**TRAINED, **SCHEDULERS.get(name, {}), "prediction_type": kind, **settings}
    return getattr(diffusers, name)(**given)


def unet(channels: int = 4, **settings: Any) -> Any:
    """A UNet as SD 1.5 has it, with one level of attention."""
    from diffusers import UNet2DConditionModel

    given = {
        "sample_size": SIZE // 2,
        "in_channels": channels,
        "out_channels": 4,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
        **settings,
    }
    model = UNet2DConditionModel(**given).eval()
    set_weights(model)
    return model


def xl_unet() -> Any:
    """A UNet as SDXL has it: pooled text and sizes go into the time embedding."""
    return unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=POOLED + 6 * 4,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
    )


def vae() -> Any:
    """An autoencoder that halves the size."""
    model = kl_vae().eval()
    set_weights(model)
    return model


def prompts(pooled: bool = False) -> dict[str, Any]:
    """Embeddings of a prompt and a negative prompt, for SDXL with the pooled ones."""
    given = {
        "prompt_embeds": noise(1, 1, TOKENS, WIDTH),
        "negative_prompt_embeds": noise(2, 1, TOKENS, WIDTH),
    }
    if pooled:
        given["pooled_prompt_embeds"] = noise(3, 1, POOLED)
        given["negative_pooled_prompt_embeds"] = noise(4, 1, POOLED)
    return given


def build(name: str, **parts: Any) -> Any:
    """A pipeline of diffusers with everything but text encoders, and its progress bar off.

    Args:
        name: of the pipeline's class.
        parts: components in place of the usual ones.
    """
    import diffusers

    absent: dict[str, Any] = {"tokenizer": None, "text_encoder": None}
    if "XL" in name:
        absent |= {"tokenizer_2": None, "text_encoder_2": None}
        usual = {"unet": xl_unet}
    else:
        absent |= {"safety_checker": None, "feature_extractor": None}
        parts.setdefault("requires_safety_checker", False)
        usual = {"unet": unet}
    usual |= {"vae": vae, "scheduler": lambda: scheduler("EulerDiscreteScheduler")}
    made = {part: make() for part, make in usual.items() if part not in parts}
    pipe = getattr(diffusers, name)(**absent, **made, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe: Any, *, steps: int = STEPS, seed: int = 0, **changes: Any) -> torch.Tensor:
    """The latents of one call with guidance."""
    given = {"height": SIZE, "width": SIZE, "guidance_scale": 5.0}
    out = pipe(
        **{**given, **prompts("XL" in type(pipe).__name__), **changes},
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
        return_dict=False,
    )
    return out[0]


class ExactDenoiser(nn.Module):
    """The best possible denoiser of latents that are near one of a few pictures, in closed form.

    Unlike random weights it leads from noise to a picture, and its predictions belong together: the
    mean of p(latent | sample) of a mixture of Gaussians, as noise, v or latent. The text chooses
    the pictures.

    Args:
        kind: the `prediction_type`.
    """

    NEAR = 0.3
    """Standard deviation around a picture."""

    def __init__(self, kind: str, pictures: int = 32) -> None:
        super().__init__()
        self.kind = kind
        coarse = noise(5, 2, pictures, 4, 4, 4)
        self.pictures = nn.functional.interpolate(
            coarse.flatten(0, 1), size=(SIZE // 2, SIZE // 2), mode="bicubic"
        ).unflatten(0, (2, pictures))
        betas = torch.linspace(
            TRAINED["beta_start"] ** 0.5, TRAINED["beta_end"] ** 0.5, 1000, dtype=torch.float64
        )
        self.alphas = (1 - betas**2).cumprod(0)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor) -> Any:
        signal, noise = self._shares(torch.as_tensor(timestep, dtype=torch.float64))
        rows = []
        for x, told in zip(sample[:, :4].double(), text, strict=True):
            means = self.pictures[int(told[0, 1] > 0)].double()
            variance = (signal * self.NEAR) ** 2 + noise**2
            away = (x - signal * means).flatten(1)
            weights = (-away.square().sum(1) / (2 * variance)).softmax(0)
            mean = torch.einsum("k,kchw->chw", weights, means)
            latent = mean + signal * self.NEAR**2 / variance * (x - signal * mean)
            eps = (x - signal * latent) / noise
            answers = {"epsilon": eps, "sample": latent}
            rows.append(answers.get(self.kind, signal * eps - noise * latent))
        return torch.stack(rows).to(sample.dtype)

    def _shares(self, timestep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of signal and noise, between those of the whole timesteps."""
        t = timestep.flatten()[0].clamp(0, 999)
        low = int(t)
        part = t - low
        alpha = self.alphas[low] * (1 - part) + self.alphas[min(low + 1, 999)] * part
        return alpha.sqrt(), (1 - alpha).sqrt()


def exact(pipe: Any, kind: str = "epsilon") -> Any:
    """`pipe` with an `ExactDenoiser` in the place of what its UNet computes."""
    model = ExactDenoiser(kind)

    class ExactUNet(type(pipe.unet)):  # type: ignore[misc]
        def forward(
            self,
            sample: torch.Tensor,
            timestep: Any,
            encoder_hidden_states: torch.Tensor,
            return_dict: bool = True,
            **others: Any,
        ) -> Any:
            out = model(sample, timestep, encoder_hidden_states)
            return UNet2DConditionOutput(sample=out) if return_dict else (out,)

    pipe.unet.__class__ = ExactUNet
    return pipe


def picture() -> Any:
    """A picture to start from."""
    return image(SIZE)
