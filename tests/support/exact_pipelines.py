"""A pipeline of diffusers around the best possible denoiser, with any of its schedulers.

Unlike random weights it leads from noise to a picture, and its predictions belong together at all
noise levels, so that the noise that a scheduler adds can be told from what changes by itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DiffusionPipeline
from tiny_pipelines import noise
from torch import nn

STEPS = 20
SIZE = 12
NEAR = 0.3
"""Standard deviation of latents around a picture."""

Shares = Callable[[torch.Tensor], torch.Tensor]
"""timestep -> the shares of signal and noise in a sample, [2]."""


class ExactDenoiser(nn.Module):
    """The mean of p(latent | sample) of a mixture of Gaussians around a few pictures.

    Args:
        kind: the `prediction_type`.
        shares: of signal and noise at a timestep.
        pictures: number of them.
    """

    def __init__(self, kind: str, shares: Shares, pictures: int = 4) -> None:
        super().__init__()
        self.kind, self.shares = kind, shares
        coarse = noise(5, pictures, 4, 3, 3)
        self.pictures = nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic")

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        signal, noise = self.shares(torch.as_tensor(timestep).flatten()[0]).double()
        means = self.pictures.double()
        variance = (signal * NEAR) ** 2 + noise**2
        x = sample.double()
        away = (x[:, None] - signal * means).flatten(2).square().sum(2)
        weights = (-away / (2 * variance)).softmax(1)
        mean = torch.einsum("bk,kchw->bchw", weights, means)
        latent = mean + signal * NEAR**2 / variance * (x - signal * mean)
        eps = (x - signal * latent) / noise
        answers = {
            "epsilon": eps,
            "sample": latent,
            "v_prediction": signal * eps - noise * latent,
            "flow_prediction": eps - latent,
        }
        return answers[self.kind].to(sample.dtype)


class ExactPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Samples as diffusers' own pipelines do; a call returns the latent."""

    def __init__(self, unet: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.set_progress_bar_config(disable=True)
        self.learned_variance = False

    @torch.no_grad()
    def __call__(self, steps: int = STEPS, seed: int = 0, **options: Any) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        scheduler = self.scheduler
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps
        name = type(scheduler).__name__
        if name == "DDPMWuerstchenScheduler":
            timesteps = timesteps[:-1]
        self._num_timesteps = len(timesteps)
        scale = float(getattr(scheduler, "init_noise_sigma", 1.0))
        latents = torch.randn(1, 4, SIZE, SIZE, generator=generator) * scale
        if "generator" in inspect.signature(type(scheduler).step).parameters:
            options["generator"] = generator
        old = None
        for i, t in enumerate(self.progress_bar(timesteps)):
            scaled = latents
            if hasattr(scheduler, "scale_model_input"):
                scaled = scheduler.scale_model_input(latents, t)
            output = self.unet(scaled, t)
            if self.learned_variance:
                output = torch.cat([output, 0.1 * scaled], dim=1)
            given: tuple[Any, ...] = (t, latents)
            if name == "CogVideoXDPMScheduler":
                given = (old, t, timesteps[i - 1] if i else None, latents)
            elif name == "DDPMWuerstchenScheduler":
                given = (t.expand(1), latents)
            out = scheduler.step(output, *given, return_dict=False, **options)
            latents, old = out[0], out[-1]
        return latents


def pipeline(scheduler: Any, kind: str, pictures: int = 4) -> ExactPipeline:
    """A pipeline with `scheduler`, whose model predicts what `kind` says."""
    return ExactPipeline(ExactDenoiser(kind, shares_of(scheduler), pictures), scheduler)


def shares_of(scheduler: Any) -> Shares:
    """What `scheduler` makes of a latent and noise, by itself."""

    def cumulated(t: torch.Tensor) -> torch.Tensor:
        low = int(t.clamp(0, 998))
        table, part = scheduler.alphas_cumprod, float(t) - low
        alpha = table[low] * (1 - part) + table[low + 1] * part
        return torch.stack([alpha.sqrt(), (1 - alpha).sqrt()])

    def flow(t: torch.Tensor) -> torch.Tensor:
        share = t / 1000
        return torch.stack([1 - share, share])

    def ratio(t: torch.Tensor) -> torch.Tensor:
        alpha = scheduler._alpha_cumprod(t, t.device)[0]
        return torch.stack([alpha.sqrt(), (1 - alpha).sqrt()])

    if hasattr(scheduler, "alphas_cumprod"):
        return cumulated
    return ratio if hasattr(scheduler, "_alpha_cumprod") else flow
