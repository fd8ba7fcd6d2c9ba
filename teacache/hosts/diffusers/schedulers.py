"""What is known of diffusers' schedulers (`diffusers/schedulers/`)."""

from __future__ import annotations

from typing import Any

from ...engine.strategy import Solver

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
    kind = type(scheduler)
    owner = kind.step.__qualname__.split(".")[0]  # a subclass may only choose other levels
    if owner not in EULER + SMOOTH or _noisy(scheduler.config):
        return Solver(kind.__name__, smooth=False)
    euler = owner in EULER
    return Solver(kind.__name__, smooth=True, euler=euler, single=euler)


def _noisy(config: Any) -> bool:
    algorithm = str(config.get("algorithm_type", ""))
    return bool(config.get("stochastic_sampling", False)) or algorithm.startswith("sde")
