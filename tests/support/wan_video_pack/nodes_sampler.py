"""The stand-in of the pack's sampler: its inputs, and a loop that calls no wrapper."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch

from .schedulers import get_scheduler


class WindowTracker:
    """Numbers the context windows of a run."""

    def __init__(self) -> None:
        self.window_map: dict[tuple[int, ...], int] = {}

    def get_window_id(self, frames: list[int]) -> int:
        return self.window_map.setdefault(tuple(sorted(frames)), len(self.window_map))


class WanVideoSampler:
    """Samples a model."""

    def process(
        self, model: Any, image_embeds: Any, shift: float, steps: int, cfg: Any, seed: int,
        scheduler: Any, riflex_freq_index: int, text_embeds: Any = None,
        force_offload: bool = True, context_options: Any = None, cache_args: Any = None,
        teacache_args: Any = None, slg_args: Any = None, loop_args: Any = None,
        loops: int = 1, start_step: int = 0, end_step: int = -1,
    ) -> Any:  # fmt: skip
        transformer = model.model.diffusion_model
        options = copy.deepcopy(model.model_options.get("transformer_options"))
        transformer.slg_blocks = None if slg_args is None else slg_args["blocks"]
        generator = torch.Generator().manual_seed(seed)
        shape = image_embeds["target_shape"]
        latent = torch.randn(shape, generator=generator)
        if image_embeds.get("asks_first"):
            transformer([latent], torch.tensor([0]), text_embeds["prompt_embeds"], seq_len=1)
        for _ in range(loops):
            latent = torch.randn(shape, generator=generator) if loops > 1 else latent
            if isinstance(scheduler, dict):
                made = copy.deepcopy(scheduler["sample_scheduler"])
                timesteps = scheduler["timesteps"]
            else:
                made, timesteps, _, _ = get_scheduler(scheduler, steps, start_step, end_step, shift)
            scales = cfg if isinstance(cfg, list) else [cfg] * len(timesteps)
            if context_options is not None:
                self.window_tracker = WindowTracker()

            def predict(
                z: Any, step: int, time: Any, count: int = len(timesteps), scales: Any = scales
            ) -> Any:
                beside = image_embeds.get("extra_channels")
                z = z if beside is None else torch.cat([z, beside])
                shared = dict(
                    x=[z], t=torch.tensor([time]), seq_len=z[0].numel(), current_step=step,
                    current_step_percentage=step / count, last_step=step == count - 1,
                    y=image_embeds.get("image"), transformer_options=options,
                )  # fmt: skip
                given = [shared.pop("x")] if image_embeds.get("older") else []
                (cond,), *_ = transformer(
                    *given, context=text_embeds["prompt_embeds"], is_uncond=False, **shared
                )
                if scales[step] == 1.0:
                    return cond
                (uncond,), *_ = transformer(
                    *given, context=text_embeds["negative_prompt_embeds"], is_uncond=True, **shared
                )
                return uncond + scales[step] * (cond - uncond)

            for step, time in enumerate(timesteps):
                if context_options is None:
                    prediction = predict(latent, step, time)
                else:
                    prediction = torch.zeros_like(latent)
                    counter = torch.zeros_like(latent)
                    for window in context_options["windows"](step):
                        self.window_tracker.get_window_id(window)
                        prediction[:, window] += predict(latent[:, window], step, time)
                        counter[:, window] += 1
                    prediction /= counter
                if transformer.is_longcat:
                    prediction = -prediction
                (moved,) = made.step(prediction[None], time, latent[None], generator=generator)
                latent = moved[0]
        return {"samples": latent[None]}, {"samples": None}


class WanVideoSamplerv2(WanVideoSampler):
    """The same with fewer inputs."""

    def process(self, *args: Any, extra_args: Any = None, **kwargs: Any) -> Any:
        known = inspect.signature(WanVideoSampler.process).parameters
        defaults = {
            name: None if each.default is each.empty else each.default
            for name, each in known.items()
            if name != "self"
        }
        return super().process(**{**defaults, **kwargs})
