"""Coefficient profiles: polynomials that rescale the change of an indicator, and their source."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import resources

from ..config import FORCE_COMPUTE, MAX_THRESHOLD, READINGS, checked_coefficients
from ..errors import ConfigError, nearest, suggestion
from .schema import JsonObject, is_finite_number

PROFILE_VERSION = 1
MAX_SUGGESTIONS = 3
"""Profiles that an error for an unknown name suggests at most."""
USER_COEFFICIENTS = "coefficients of your own"
"""Name of a profile whose coefficients are those in the user's settings."""


@dataclass(frozen=True)
class Threshold:
    """A published threshold.

    Args:
        value: the threshold (`rel_l1_thresh`).
        effect: the effect that its source states, such as "1.5x"; None if it states none.
    """

    value: float
    effect: str | None = None


@dataclass(frozen=True)
class Profile:
    """How the change of a model's indicator is rescaled to the distance that TeaCache accumulates.

    Args:
        name: unique among all profiles.
        family: id of the model family.
        indicator: the tensor that is compared between steps, one of `config.READINGS`.
        coefficients: of a polynomial of any degree from 1, highest power first as in
            `numpy.poly1d`; empty if the change is the distance.
        thresholds: the published ones.
        default_threshold: the recommended one.
        calibrated: whether the coefficients were fitted to the model.
        source: repository and file that the coefficients come from.
        calibrated_on: the model that they were fitted to.
        r2: coefficient of determination of the fit; None if it is not known.
        x_range: smallest and largest change in the data of the fit; None if it is not known.
        start_percent, end_percent: range of steps that the source recommends, 0 to 1.
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
        """A copy of this profile with the user's own polynomial."""
        return replace(
            self,
            name=USER_COEFFICIENTS,
            coefficients=coefficients,
            thresholds=(),
            calibrated=True,
            source="the user's settings",
            calibrated_on="",
            r2=None,
            x_range=None,
        )

    def distance(self, change: float) -> float:
        """The distance for a relative L1 change of the indicator: |polynomial(change)|.

        The published rule is the polynomial without the absolute value. The two differ only where
        the polynomial is negative, outside the range of the fit: there the published sum would
        shrink, and steps be skipped without end.

        Returns:
            `FORCE_COMPUTE` for a change that is not finite or is above `x_range`.
        """
        if not math.isfinite(change) or (self.x_range and change > self.x_range[1]):
            return FORCE_COMPUTE
        if not self.coefficients:
            return min(change, FORCE_COMPUTE)
        value = 0.0
        for coefficient in self.coefficients:
            value = value * change + coefficient
        return min(abs(value), FORCE_COMPUTE)


def _read_coefficients(data: JsonObject) -> tuple[float, ...]:
    values = data["coefficients"]
    if values == []:
        return ()
    try:
        return checked_coefficients(values)
    except ConfigError as error:
        raise data.error(str(error)) from None


def _read_thresholds(data: JsonObject) -> tuple[Threshold, ...]:
    values = data["thresholds"]
    if not isinstance(values, list) or not all(
        isinstance(value, dict) and is_finite_number(value.get("value")) for value in values
    ):
        raise data.error('thresholds must be a list of {"value": number, "effect": text}')
    return tuple(Threshold(float(t["value"]), t.get("effect")) for t in values)


def _read_x_range(data: JsonObject) -> tuple[float, float] | None:
    values = data.get("x_range", None)
    if values is None:
        return None
    if (
        not isinstance(values, list)
        or len(values) != 2
        or not all(map(is_finite_number, values))
        or not values[0] < values[1]
    ):
        raise data.error(f"x_range must be two rising numbers, not {values!r}")
    return float(values[0]), float(values[1])


def parse_profile(text: str, source: str) -> Profile:
    """Read a profile's file.

    Args:
        text: the contents of the file.
        source: name of the file, which error messages begin with.

    Raises:
        ConfigError: `text` is not a usable profile.
    """
    return read_profile(JsonObject.parse(text, source))


def read_profile(data: JsonObject) -> Profile:
    """The profile in the fields of a file; other fields are ignored.

    Raises:
        ConfigError: a field is missing or unusable.
    """
    version = data.get("version", None)
    if version != PROFILE_VERSION:
        raise data.error(f"version must be {PROFILE_VERSION}, not {version!r}")
    indicator = data.text("indicator")
    if indicator not in READINGS:
        raise data.error(f"indicator must be one of {', '.join(READINGS)}")
    start = data.number("start_percent", 0.0, 1.0, 0.0)
    end = data.number("end_percent", 0.0, 1.0, 1.0)
    if start >= end:
        raise data.error(f"start_percent must be below end_percent, not {start:g} and {end:g}")
    r2 = data.get("r2", None)
    return Profile(
        name=data.text("name"),
        family=data.text("family"),
        indicator=indicator,
        coefficients=_read_coefficients(data),
        thresholds=_read_thresholds(data),
        default_threshold=data.number("default_threshold", 0.0, MAX_THRESHOLD),
        calibrated=data["calibrated"] is True,
        source=data.text("source"),
        calibrated_on=str(data.get("calibrated_on", "")),
        r2=None if r2 is None else data.number("r2", -math.inf, 1.0),
        x_range=_read_x_range(data),
        start_percent=start,
        end_percent=end,
        warmup_steps=int(data.number("warmup_steps", 0, 1000, 0)),
    )


def load_profiles() -> dict[str, Profile]:
    """The profiles shipped with the package, by name."""
    profiles: dict[str, Profile] = {}
    for entry in sorted(
        resources.files(__package__).joinpath("data").iterdir(), key=lambda item: item.name
    ):
        if entry.name.endswith(".json"):
            profile = parse_profile(entry.read_text(encoding="utf-8"), entry.name)
            profiles[profile.name] = profile
    return profiles


def unknown_profile_error(name: str, known: Iterable[str]) -> ConfigError:
    """The error for a profile that does not exist.

    Args:
        name: as the user gave it.
        known: all shipped and own profiles, of which the nearest are suggested.
    """
    names = list(known)
    hint = nearest(name, names, MAX_SUGGESTIONS)
    if name and not hint:
        hint = suggestion([each for each in names if each.startswith(name)][:MAX_SUGGESTIONS])
    hint = hint or "."
    return ConfigError(
        f"unknown profile {name!r}{hint} 'teacache families' lists the shipped profiles, "
        "'teacache profiles list' your own"
    )


def get_profile(name: str, family: str, profiles: dict[str, Profile]) -> Profile:
    """The profile `name`.

    Args:
        name: of the profile.
        family: id of the model's family.
        profiles: all known ones, by name.

    Raises:
        ConfigError: the profile is unknown or made for another family.
    """
    if name not in profiles:
        raise unknown_profile_error(name, profiles)
    profile = profiles[name]
    if profile.family != family:
        raise ConfigError(
            f"profile {name!r} is made for the family {profile.family!r}, "
            f"but this model is {family!r}; choose auto"
        )
    return profile
