"""What is known of diffusers' schedulers (`diffusers/schedulers/`)."""

from __future__ import annotations

from typing import Any

from ..method import Solver

EULER = ("FlowMatchEulerDiscreteScheduler",)
"""x + (next sigma - sigma) * the transformer's output."""
SMOOTH = (
    "FlowMatchHeunDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "DDIMScheduler",
    "CogVideoXDDIMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "PNDMScheduler",
)
"""Deterministic with the settings that `_noisy` does not name."""

OWN_LOOP = Solver("of a loop of the user's own", smooth=False)


def solver_of(scheduler: Any) -> Solver:
    """What is known of a scheduler; one that is not in the tables is not extrapolated."""
    name = type(scheduler).__name__
    if name not in EULER + SMOOTH or _noisy(scheduler.config):
        return Solver(name, smooth=False)
    return Solver(name, smooth=True, euler=name in EULER, single=name in EULER)


def _noisy(config: Any) -> bool:
    algorithm = str(config.get("algorithm_type", ""))
    return bool(config.get("stochastic_sampling", False)) or algorithm.startswith("sde")
