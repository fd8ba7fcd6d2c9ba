"""A tiny pipeline whose guidance is another network, and a clock that counts its blocks."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiffusionPipeline
from tiny_image_pipelines import sd3
from tiny_pipelines import flow, noise, set_weights
from torch import nn

from teacache.engine import device

STEPS = 12
GUIDES = ("same family", "other class", "attribute", "same family, attribute")


class PlainDenoiser(nn.Module):
    """A denoiser that no family describes."""

    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(blocks))

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        for convolution in self.convolutions:
            sample = sample + 0.1 * convolution(sample)
        return sample


class GuidedPipeline(DiffusionPipeline):
    """Denoises by `transformer`, away from what `guide` predicts.

    Attributes:
        other_network: the guide, which need not be a component.
        guide_until: the step from which on the guide is not called.
        guide_first: it is called before the transformer.
    """

    def __init__(self, transformer: Any, scheduler: Any, guide: Any = None) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler, guide=guide)
        self.other_network = guide
        self.guide_until = STEPS
        self.guide_first = False

    @torch.no_grad()
    def __call__(self, steps: int = STEPS, seed: int = 0, sigmas: Any = None) -> torch.Tensor:
        text = {
            "encoder_hidden_states": noise(1, 1, 5, 32),
            "pooled_projections": noise(11, 1, 12),
        }
        self.scheduler.set_timesteps(steps if sigmas is None else None, sigmas=sigmas)
        latents = noise(seed, 1, 4, 8, 8)

        def predict(network: Any, t: torch.Tensor) -> torch.Tensor:
            if isinstance(network, PlainDenoiser):
                return network(latents, t.expand(1))
            return network(latents, timestep=t.expand(1), **text, return_dict=False)[0]

        with self.progress_bar(total=len(self.scheduler.timesteps)) as bar:
            for index, t in enumerate(self.scheduler.timesteps):
                guided = index < self.guide_until
                networks = [self.transformer, *([self.other_network] if guided else [])]
                if self.guide_first:
                    networks.reverse()
                out = {id(network): predict(network, t) for network in networks}
                prediction = out[id(self.transformer)]
                if guided:
                    prediction = prediction + 0.5 * (prediction - out[id(self.other_network)])
                latents = self.scheduler.step(prediction, t, latents, return_dict=False)[0]
                bar.update()
        return latents


def guided(kind: str) -> GuidedPipeline:
    """The pipeline with a guide of one of the `GUIDES`."""
    transformer, guide = sd3().transformer, sd3().transformer
    if not kind.startswith("same family"):
        guide = PlainDenoiser()
    for seed, module in enumerate((transformer, guide)):
        set_weights(module.eval(), seed)
    pipe = GuidedPipeline(transformer, flow(), None if kind.endswith("attribute") else guide)
    pipe.other_network = guide
    pipe.set_progress_bar_config(disable=True)
    return pipe


def blocks_of(network: Any) -> list[nn.Module]:
    plain = isinstance(network, PlainDenoiser)
    return list(network.convolutions if plain else network.transformer_blocks)


class BlockClock:
    """Stands still but for the blocks of a pipeline's networks, which take a second each."""

    def __init__(self, pipe: GuidedPipeline, monkeypatch: Any) -> None:
        self.blocks = {"transformer": 0, "guide": 0}
        self._now = 0.0
        networks = {"transformer": pipe.transformer, "guide": pipe.other_network}
        for name, network in networks.items():
            for block in blocks_of(network):
                block.register_forward_pre_hook(lambda *_, name=name: self._run(name))
        monkeypatch.setattr(device.time, "perf_counter", lambda: self._now)

    def _run(self, name: str) -> None:
        self.blocks[name] += 1
        self._now += 1.0
