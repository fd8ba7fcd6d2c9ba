"""Coefficient profiles: the polynomials that rescale an indicator's change, with their source."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import resources

from ..config import FORCE_COMPUTE, MAX_THRESHOLD, READINGS, checked_coefficients
from ..errors import ConfigError, nearest
from .schema import Fields, finite

PROFILE_VERSION = 1
OWN_COEFFICIENTS = "coefficients of your own"


@dataclass(frozen=True)
class Threshold:
    """A published threshold and the effect its source states for it (None where it states none)."""

    value: float
    effect: str | None = None


@dataclass(frozen=True)
class Profile:
    """How the change of one model's indicator is turned into a distance, and where that comes from.

    Args:
        name: unique among all profiles.
        family: id of the family that it is made for.
        indicator: what is compared (`config.READINGS`).
        coefficients: of a polynomial of any degree from 1, highest power first as in
            `numpy.poly1d`; empty means that the indicator's own change is the distance.
        thresholds: published ones.
        default_threshold: the recommended one.
        calibrated: whether somebody fitted the coefficients to the model.
        source: repository and file that the coefficients come from.
        calibrated_on: the model that they were fitted to.
        r2: coefficient of determination of the fit, where it is known.
        x_range: lowest and highest change that the fit saw, where it is known.
        start_percent, end_percent: range of steps that the source recommends.
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

    def with_coefficients(self, coefficients: tuple[float, ...]) -> Profile:
        """This profile with the user's own polynomial."""
        return replace(
            self,
            name=OWN_COEFFICIENTS,
            coefficients=coefficients,
            thresholds=(),
            calibrated=True,
            source="the user's settings",
            calibrated_on="",
            r2=None,
            x_range=None,
        )

    def distance(self, change: float) -> float:
        """The distance that a relative L1 `change` of the indicator stands for.

        |polynomial(change)|: where the fit is positive this is the published rule; a negative
        value lies outside the calibrated range, where the absolute value grows again, so that
        the step is computed in the end instead of being skipped for ever. A change above a known
        calibrated range, or one that is not finite, gives `FORCE_COMPUTE`.
        """
        if not math.isfinite(change) or (self.x_range and change > self.x_range[1]):
            return FORCE_COMPUTE
        if not self.coefficients:
            return min(change, FORCE_COMPUTE)
        value = 0.0
        for coefficient in self.coefficients:
            value = value * change + coefficient
        return min(abs(value), FORCE_COMPUTE)


def _coefficients(fields: Fields) -> tuple[float, ...]:
    values = fields["coefficients"]
    if values == []:
        return ()
    try:
        return checked_coefficients(values)
    except ConfigError as error:
        raise fields.refuse(str(error)) from None


def _thresholds(fields: Fields) -> tuple[Threshold, ...]:
    values = fields["thresholds"]
    if not isinstance(values, list) or not all(
        isinstance(value, dict) and finite(value.get("value")) for value in values
    ):
        raise fields.refuse('thresholds must be a list of {"value": number, "effect": text}')
    return tuple(Threshold(float(t["value"]), t.get("effect")) for t in values)


def _x_range(fields: Fields) -> tuple[float, float] | None:
    values = fields.get("x_range", None)
    if values is None:
        return None
    if (
        not isinstance(values, list)
        or len(values) != 2
        or not all(map(finite, values))
        or not values[0] < values[1]
    ):
        raise fields.refuse(f"x_range must be two rising numbers, not {values!r}")
    return float(values[0]), float(values[1])


def parse_profile(text: str, where: str) -> Profile:
    """The profile that `text` holds; ConfigError, in one line that begins with `where`, if none."""
    return profile_in(Fields.of_text(text, where))


def profile_in(fields: Fields) -> Profile:
    """The profile in a file's fields, whatever else they hold."""
    if fields.get("version", None) != PROFILE_VERSION:
        found = fields.get("version", None)
        raise fields.refuse(f"version must be {PROFILE_VERSION}, not {found!r}")
    indicator = fields.text("indicator")
    if indicator not in READINGS:
        raise fields.refuse(f"indicator must be one of {', '.join(READINGS)}")
    start = fields.number("start_percent", 0.0, 1.0, 0.0)
    end = fields.number("end_percent", 0.0, 1.0, 1.0)
    if start >= end:
        raise fields.refuse(f"start_percent must be below end_percent, not {start:g} and {end:g}")
    r2 = fields.get("r2", None)
    return Profile(
        name=fields.text("name"),
        family=fields.text("family"),
        indicator=indicator,
        coefficients=_coefficients(fields),
        thresholds=_thresholds(fields),
        default_threshold=fields.number("default_threshold", 0.0, MAX_THRESHOLD),
        calibrated=fields["calibrated"] is True,
        source=fields.text("source"),
        calibrated_on=str(fields.get("calibrated_on", "")),
        r2=None if r2 is None else fields.number("r2", -math.inf, 1.0),
        x_range=_x_range(fields),
        start_percent=start,
        end_percent=end,
        warmup_steps=int(fields.number("warmup_steps", 0, 1000, 0)),
    )


def load_profiles() -> dict[str, Profile]:
    """The profiles shipped with the package, by name."""
    found: dict[str, Profile] = {}
    for entry in sorted(
        resources.files(__package__).joinpath("data").iterdir(), key=lambda item: item.name
    ):
        if entry.name.endswith(".json"):
            profile = parse_profile(entry.read_text(encoding="utf-8"), entry.name)
            found[profile.name] = profile
    return found


def unknown_profile(name: str, known: Iterable[str]) -> ConfigError:
    """The error for a profile that does not exist, naming the nearest one."""
    every = sorted(known)
    hint = nearest(name, every) or "."
    return ConfigError(f"unknown profile {name!r}{hint} Known: auto, {', '.join(every)}")


def get_profile(name: str, family: str, profiles: dict[str, Profile]) -> Profile:
    """The profile `name`, refused with ConfigError when unknown or made for another family."""
    if name not in profiles:
        raise unknown_profile(name, profiles)
    profile = profiles[name]
    if profile.family != family:
        raise ConfigError(
            f"profile {name!r} is made for the family {profile.family!r}, "
            f"but this model is {family!r}; choose auto"
        )
    return profile
