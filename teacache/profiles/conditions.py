"""The conditions of a sampling run: what decides whether a calibration applies to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .schema import JsonObject

UNKNOWN_DIGEST = "unknown"
"""In place of a digest that was not computed, or could not be."""
SIGMA_TOLERANCE = 0.02
"""Largest difference between equal noise levels, as a fraction of the highest level."""
MAX_SIZE_RATIO = 2.0
"""Latents whose numbers of values differ by at most this factor count as the same size."""
MAX_GUIDANCE_RATIO = 1.5
"""Guidance scales that differ by at most this factor count as equal."""
MIN_STEPS_RATIO = 0.5
"""A plan is not adapted to runs with fewer steps than this fraction of its own."""


@dataclass(frozen=True)
class Conditions:
    """What a calibration was made with, or what a run samples with.

    Args:
        family: id of the model family.
        weights_digest: of the transformer's own weights (`teacache.digest`).
        patches_digest: of LoRAs and other weight patches; empty if there are none.
        sampler: the host's name for it.
        sigmas: noise levels, `steps + 1` values from the highest to the lowest.
        latent: shape of one latent, without the batch.
        guidance: guidance scale; None if the host does not report it.
    """

    family: str
    weights_digest: str
    patches_digest: str
    sampler: str
    sigmas: tuple[float, ...]
    latent: tuple[int, ...]
    guidance: float | None = None

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def identity(self) -> tuple[str, str, str]:
        """Family, weights and patches: the key that calibrations are looked up by."""
        return self.family, self.weights_digest, self.patches_digest

    def to_json(self) -> dict[str, Any]:
        """For profile files and calibration journals; `from_json` is the inverse."""
        return {
            "family": self.family,
            "model": self.weights_digest,
            "patches": self.patches_digest,
            "sampler": self.sampler,
            "sigmas": list(self.sigmas),
            "latent": list(self.latent),
            "guidance": self.guidance,
        }

    @classmethod
    def from_json(cls, data: JsonObject) -> Conditions:
        """Read what `to_json` wrote.

        Raises:
            ConfigError: a field is missing or unusable.
        """
        sigmas = data.numbers("sigmas", 0.0)
        if len(sigmas) < 2:
            raise data.error("sigmas must be two noise levels or more")
        guidance = data.get("guidance", None)
        return cls(
            family=data.text("family"),
            weights_digest=data.text("model"),
            patches_digest=str(data.get("patches", "")),
            sampler=data.text("sampler"),
            sigmas=tuple(sigmas),
            latent=tuple(int(size) for size in data.numbers("latent", 1)),
            guidance=None if guidance is None else data.number("guidance", -math.inf, math.inf),
        )


def same_sigmas(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two schedules have the same noise levels, within `SIGMA_TOLERANCE`."""
    return len(a) == len(b) and all(
        abs(x - y) <= SIGMA_TOLERANCE * max(a) for x, y in zip(a, b, strict=True)
    )


def differences(calibrated: Conditions, run: Conditions) -> list[str]:
    """How a run differs from the conditions of a calibration, as phrases for the user.

    Args:
        calibrated: the conditions of the calibration.
        run: the conditions of the run.
    """
    phrases = []
    if calibrated.weights_digest != run.weights_digest:
        phrases.append("other weights")
    if calibrated.patches_digest != run.patches_digest:
        phrases.append(
            "other LoRAs or patches" if run.patches_digest else "no LoRAs or patches any more"
        )
    if calibrated.sampler != run.sampler:
        phrases.append(f"sampler {run.sampler} instead of {calibrated.sampler}")
    if calibrated.steps != run.steps:
        phrases.append(f"{run.steps} steps instead of {calibrated.steps}")
    elif not same_sigmas(calibrated.sigmas, run.sigmas):
        phrases.append("other noise levels")
    if not _ratio_within(math.prod(calibrated.latent), math.prod(run.latent), MAX_SIZE_RATIO):
        phrases.append(
            f"latent {_shape_text(run.latent)} instead of {_shape_text(calibrated.latent)}"
        )
    if (
        calibrated.guidance is not None
        and run.guidance is not None
        and not _ratio_within(calibrated.guidance, run.guidance, MAX_GUIDANCE_RATIO)
    ):
        phrases.append(f"guidance {run.guidance:g} instead of {calibrated.guidance:g}")
    return phrases


def incompatibility(calibrated: Conditions, run: Conditions) -> str:
    """Why the plans of a calibration cannot be adapted to a run; empty if they can.

    Args:
        calibrated: the conditions of the calibration.
        run: the conditions of the run.
    """
    if calibrated.family != run.family:
        return f"it is made for {calibrated.family}"
    if run.steps < MIN_STEPS_RATIO * calibrated.steps:
        return f"its {calibrated.steps} steps tell nothing about {run.steps}"
    low, high = min(calibrated.sigmas), max(calibrated.sigmas)
    if max(run.sigmas) > high * 1.05 or min(run.sigmas) < low - 0.05 * high:
        return "the run leaves its range of noise levels"
    return ""


def _ratio_within(a: float, b: float, limit: float) -> bool:
    """Whether the larger of two values is at most `limit` times the smaller."""
    low, high = sorted((max(a, 1e-9), max(b, 1e-9)))
    return high <= limit * low


def _shape_text(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
