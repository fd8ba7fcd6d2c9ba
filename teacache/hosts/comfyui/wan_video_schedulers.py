"""What is known of the schedulers of ComfyUI-WanVideoWrapper, and their noise levels.

Each makes one step for one prediction at each of its timesteps.
"""

from __future__ import annotations

from typing import Any

import torch

from ...engine.strategy import SamplerTraits
from ..common import configured_to_add_noise

TIMESTEPS = 1000
"""A timestep over the noise level that it stands for."""
ROUNDING = 0.02
"""How far a level may be from its timestep, which some schedulers round to whole numbers."""
EULER = ("FlowMatchEulerDiscreteScheduler", "FlowMatchScheduler")
"""A step is x + (next sigma - sigma) * prediction."""
DETERMINISTIC = (
    "FlowUniPCMultistepScheduler",
    "FlowDPMSolverMultistepScheduler",
    "DEISMultistepScheduler",
    "FlowMatchSchedulerResMultistep",
    "FlowMatchSAODEStableScheduler",
    "FlowMatchSchedulerPusa",
)
"""Deterministic unless their settings add noise."""
NOISY = ("FlowMatchLCMScheduler", "ERSDEScheduler")
"""They add noise between the steps: the denoised latent is continued."""
NOT_FORECAST = ("rCMFlowMatchScheduler", "ViBTScheduler")
"""They add noise, and what is denoised is not where a trajectory of flow matching leads."""


def sampler_traits(scheduler: Any) -> SamplerTraits:
    """The traits of a scheduler of the pack; one that is in no table is not extrapolated."""
    name = type(scheduler).__name__
    forecast = name in EULER + DETERMINISTIC + NOISY
    config = scheduler.config if hasattr(scheduler, "config") else {}
    noisy = name in NOISY + NOT_FORECAST or configured_to_add_noise(config)
    return SamplerTraits(
        name,
        forecast=forecast,
        euler=name in EULER and not noisy,
        one_eval_per_step=forecast,
        visits_every_level=True,
        adds_noise=noisy,
        foreign=not forecast and name not in NOT_FORECAST,
    )


def noise_levels(scheduler: Any, timesteps: torch.Tensor) -> list[float]:
    """The noise levels of a run: one for each of its timesteps, and the one it ends at.

    Raises:
        ValueError: they do not belong to the timesteps.
    """
    times = [float(time) / TIMESTEPS for time in timesteps.flatten().tolist()]
    levels = [float(level) for level in scheduler.sigmas.flatten().tolist()]
    if len(levels) == len(times):
        levels.append(0.0)
    pairs = zip(times, levels, strict=False)
    if len(levels) != len(times) + 1 or any(abs(time - own) > ROUNDING for time, own in pairs):
        raise ValueError(f"the levels of {type(scheduler).__name__} are not those of its timesteps")
    return levels
