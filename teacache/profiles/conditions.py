"""What a sampling run is made with: the key under which a calibration is found again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

UNKNOWN = "unknown"
"""Stands for the digest of weights that were not looked at."""
SAME_LEVELS = 0.02
"""Largest difference of two noise levels that count as one, of the highest level."""
SAME_SIZE = 2.0
"""Latents whose number of values differs by less than this factor are of one class."""
SAME_GUIDANCE = 1.5
FEWER_STEPS = 0.5
"""A plan is not carried over to less than this share of its own steps."""


@dataclass(frozen=True)
class Conditions:
    """family: its id. model: digest of the weights; patches: of what is patched into them, empty
    for none. sampler: the host's name. sigmas: noise levels, one more than steps. latent: shape
    for one picture. guidance: scale, None where the host tells none.
    """

    family: str
    model: str
    patches: str
    sampler: str
    sigmas: tuple[float, ...]
    latent: tuple[int, ...]
    guidance: float | None = None

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def identity(self) -> tuple[str, str, str]:
        """What a calibration is found by."""
        return self.family, self.model, self.patches


def same_levels(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two schedules are one."""
    return len(one) == len(other) and all(
        abs(a - b) <= SAME_LEVELS * max(one) for a, b in zip(one, other, strict=True)
    )


def differences(made: Conditions, run: Conditions) -> list[str]:
    """In what a run differs from what a calibration was made with; phrases for the user."""
    found = []
    if made.model != run.model:
        found.append("other weights")
    if made.patches != run.patches:
        found.append("other LoRAs or patches" if run.patches else "no LoRAs or patches any more")
    if made.sampler != run.sampler:
        found.append(f"sampler {run.sampler} instead of {made.sampler}")
    if made.steps != run.steps:
        found.append(f"{run.steps} steps instead of {made.steps}")
    elif not same_levels(made.sigmas, run.sigmas):
        found.append("other noise levels")
    if not _within(math.prod(made.latent), math.prod(run.latent), SAME_SIZE):
        found.append(f"latent {_size(run.latent)} instead of {_size(made.latent)}")
    if (
        made.guidance is not None
        and run.guidance is not None
        and not _within(made.guidance, run.guidance, SAME_GUIDANCE)
    ):
        found.append(f"guidance {run.guidance:g} instead of {made.guidance:g}")
    return found


def why_not_sound(made: Conditions, run: Conditions) -> str:
    """Why a plan cannot be carried over to a run; empty where it can."""
    if made.family != run.family:
        return f"it is made for {made.family}"
    if run.steps < FEWER_STEPS * made.steps:
        return f"its {made.steps} steps tell nothing about {run.steps}"
    low, high = min(made.sigmas), max(made.sigmas)
    if max(run.sigmas) > high * 1.05 or min(run.sigmas) < low - 0.05 * high:
        return "the run leaves its range of noise levels"
    return ""


def _within(one: float, other: float, factor: float) -> bool:
    low, high = sorted((max(one, 1e-9), max(other, 1e-9)))
    return high <= factor * low


def _size(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
