"""Coefficient profiles: the polynomials that rescale an indicator's change, with their source."""

from __future__ import annotations

import difflib
import json
import math
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ..config import ConfigError

PROFILE_VERSION = 1
UNSURE = 1000.0
"""A distance above every allowed threshold: where nothing is known, the step is computed."""


@dataclass(frozen=True)
class Threshold:
    """A published threshold and the effect its source states for it (None where it states none)."""

    value: float
    effect: str | None = None


@dataclass(frozen=True)
class Profile:
    """How one model's indicator is turned into a distance, and where that comes from.

    coefficients: a4 … a0, highest power first as in `numpy.poly1d`; empty means the indicator's
        own change is the distance. x_range: indicator changes seen in calibration, if known.
    warmup_steps: steps at the start that the source always computes.
    """

    name: str
    family: str
    indicator: str
    coefficients: tuple[float, ...]
    thresholds: tuple[Threshold, ...]
    default_threshold: float
    calibrated: bool
    source: str
    calibrated_on: str = ""
    r2: float | None = None
    x_range: tuple[float, float] | None = None
    start_percent: float = 0.0
    end_percent: float = 1.0
    warmup_steps: int = 0

    def distance(self, change: float) -> float:
        """The distance that a relative L1 `change` of the indicator stands for.

        |polynomial(change)|: where the fit is positive this is the published rule; a negative
        value lies outside the calibrated range, where the absolute value grows again, so that
        the step is computed in the end instead of being skipped for ever. A change above a known
        calibrated range, or one that is not finite, gives `UNSURE`.
        """
        if not math.isfinite(change) or (self.x_range and change > self.x_range[1]):
            return UNSURE
        if not self.coefficients:
            return min(change, UNSURE)
        value = 0.0
        for coefficient in self.coefficients:
            value = value * change + coefficient
        return min(abs(value), UNSURE)


def _parse(data: dict[str, Any], where: str) -> Profile:
    if data.get("version") != PROFILE_VERSION:
        raise ConfigError(
            f"{where}: version must be {PROFILE_VERSION}, not {data.get('version')!r}"
        )
    coefficients = data["coefficients"]
    if len(coefficients) not in (0, 5) or not all(
        isinstance(c, (int, float)) and math.isfinite(c) for c in coefficients
    ):
        raise ConfigError(f"{where}: coefficients must be none or 5 finite numbers, a4 to a0")
    x_range = data.get("x_range")
    return Profile(
        name=data["name"],
        family=data["family"],
        indicator=data["indicator"],
        coefficients=tuple(float(c) for c in coefficients),
        thresholds=tuple(Threshold(t["value"], t.get("effect")) for t in data["thresholds"]),
        default_threshold=float(data["default_threshold"]),
        calibrated=bool(data["calibrated"]),
        source=data["source"],
        calibrated_on=data.get("calibrated_on", ""),
        r2=data.get("r2"),
        x_range=(float(x_range[0]), float(x_range[1])) if x_range else None,
        start_percent=float(data.get("start_percent", 0.0)),
        end_percent=float(data.get("end_percent", 1.0)),
        warmup_steps=int(data.get("warmup_steps", 0)),
    )


def load_profiles() -> dict[str, Profile]:
    """The profiles shipped with the package, by name."""
    found: dict[str, Profile] = {}
    for entry in sorted(resources.files(__name__).iterdir(), key=lambda item: item.name):
        if entry.name.endswith(".json"):
            profile = _parse(json.loads(entry.read_text(encoding="utf-8")), entry.name)
            found[profile.name] = profile
    return found


def find_profile(name: str, profiles: dict[str, Profile]) -> Profile:
    """The profile `name`, or ConfigError naming the nearest one."""
    if name in profiles:
        return profiles[name]
    near = difflib.get_close_matches(name, profiles, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ConfigError(f"unknown profile {name!r}{hint} Known: auto, {', '.join(sorted(profiles))}")


def get_profile(name: str, family: str, profiles: dict[str, Profile]) -> Profile:
    """The profile `name`, refused with ConfigError when unknown or made for another family."""
    profile = find_profile(name, profiles)
    if profile.family != family:
        raise ConfigError(
            f"profile {name!r} is made for the family {profile.family!r}, "
            f"but this model is {family!r}; choose auto"
        )
    return profile
