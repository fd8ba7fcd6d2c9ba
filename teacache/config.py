"""The settings of one cache, checked when they are made."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import ConfigError, nearest

CACHE_DEVICES = ("auto", "device", "cpu")
MODES = ("forecast", "faithful")
CACHED = ("auto", "residual", "prediction")
INDICATORS = ("auto", "profile", "rate")
PREDICTORS = ("auto", "reuse", "linear", "damped")
FORMER_SETTINGS = ("token_stride",)
"""Settings of earlier versions."""
FORMER_VALUES = {"indicator": ("spectral", "first_block"), "predictor": ("blend",)}
"""Values that settings had in earlier versions: saved graphs run with `auto` in their place."""
READINGS = ("modulated_input", "timestep", "timestep_projection", "stack_input")
"""What the indicator `profile` may read; each profile names one."""
DEFAULT_THRESHOLD = 0.2
MAX_THRESHOLD = 100.0
FORCE_COMPUTE = 1000.0
"""A distance above every allowed threshold: where nothing is known, the step is computed."""
NEVER_SKIP = 1e-30
"""A threshold that no distance stays below."""
LEARN = "learn"
"""The preset that computes every step and saves what the run showed as a profile."""
PRESETS = ("auto", "faithful", "quality", "balanced", "fast", LEARN)
LEAST_SPEEDUP, MOST_SPEEDUP = 1.1, 10.0
_SPEEDUP = re.compile(r"(\d+(?:\.\d+)?)x")


def checked_number(name: str, value: object, low: float, high: float) -> float:
    allowed = f"{name} must be a number from {low:g} to {high:g}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{allowed}, not {type(value).__name__} {value!r}")
    if not math.isfinite(value) or not low <= value <= high:
        raise ConfigError(f"{allowed}, not {value}")
    return float(value)


def _whole(name: str, value: object, low: int) -> None:
    allowed = f"{name} must be a whole number from {low}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{allowed}, not {type(value).__name__} {value!r}")
    if value < low:
        raise ConfigError(f"{allowed}, not {value}")


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value in FORMER_VALUES.get(name, ()):
        raise ConfigError(
            f"{name}={value} was removed, as others measured better (docs/quality.md): use "
            f"{name}=auto, or one of {', '.join(allowed[1:])}"
        )
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")


def check_setting(name: str) -> None:
    """Refuse `name` where it is no setting of `TeaCacheConfig`.

    Raises:
        ConfigError: it is none; the message names the nearest one, or says that it was removed.
    """
    known = [field.name for field in dataclasses.fields(TeaCacheConfig)]
    if name in known:
        return
    if name in FORMER_SETTINGS:
        hint = ", which was removed: leave it out."
    else:
        hint = nearest(name, known) or "."
    raise ConfigError(f"unknown setting {name!r}{hint} Known: {', '.join(known)}")


def replace_former_values(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The settings of a saved graph, as this version knows them.

    Returns:
        `settings` with `auto` in place of `FORMER_VALUES`, and one sentence for each of these.
    """
    replaced, notes = dict(settings), []
    for name, former in FORMER_VALUES.items():
        if settings.get(name) in former:
            replaced[name] = "auto"
            notes.append(f"{name}={settings[name]} was removed: {name}=auto is used in its place.")
    return replaced, notes


def checked_coefficients(values: object) -> tuple[float, ...]:
    """`values` as the coefficients of a polynomial.

    Raises:
        ConfigError: they are not two or more finite numbers.
    """
    allowed = (
        "coefficients must be two or more finite numbers, highest power first "
        "(a polynomial of degree 1 or higher)"
    )
    if not isinstance(values, (list, tuple)) or len(values) < 2:
        raise ConfigError(f"{allowed}, not {values!r}")
    for value in values:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not abs(value) <= sys.float_info.max:
            raise ConfigError(f"{allowed}, not {value!r}")
    return tuple(map(float, values))


def wanted_speedup(preset: str) -> float | None:
    """The factor of a preset such as "2.0x"; None for one that is a name."""
    found = _SPEEDUP.fullmatch(preset)
    return None if found is None else float(found[1])


def _preset(value: object) -> None:
    speedup = wanted_speedup(value) if isinstance(value, str) else None
    if value in PRESETS or (speedup is not None and LEAST_SPEEDUP <= speedup <= MOST_SPEEDUP):
        return
    raise ConfigError(
        f"preset must be one of {', '.join(PRESETS)}, or a wanted speed-up such as 2.0x, from "
        f"{LEAST_SPEEDUP:g}x to {MOST_SPEEDUP:g}x, not {value!r}"
    )


@dataclass(frozen=True)
class TeaCacheConfig:
    """The user's settings of the cache: immutable, and checked when they are made.

    Args:
        rel_l1_thresh: accumulated distance below which a step is skipped (arXiv 2411.19108,
            eq. 6), 0 to 100. 0 turns the cache off; None takes the recommended one.
        start_percent, end_percent: share of the run's steps, 0 to 1, within which steps may be
            skipped. The first step of a run is always computed, and the last unless noise is left.
        max_skip: most steps skipped in a row; 0 sets no limit, as published.
        cache_device: where cached tensors are kept: `device` beside the model, `cpu` in main
            memory; `auto` is `device`, or `cpu` where ComfyUI runs with --lowvram or --novram.
        profile: name of a coefficient profile, or `auto` for the family's own.
        mode: `forecast` extrapolates whole predictions, controlled by their own measured error;
            `faithful` is TeaCache as published.
        cached: what is cached and predicted on a skip: the `residual` of the block stack, branch by
            branch, or the whole `prediction` after guidance; `auto` is the mode's own.
        indicator: how change is measured (`engine/indicators.py`), or `auto` for the mode's own.
        predictor: how a cached value is continued (`engine/predictors.py`), or `auto` likewise.
        preset: one setting in place of the others: a quality level, or a wanted speed-up such as
            "2.0x", resolved by what is known of the model (`engine/presets.py`). `learn` computes
            every step and saves what the run showed of the model as a profile. With `auto` the
            others decide; while they are untouched too, a calibration of the model is followed.
        coefficients: of a polynomial of your own in place of the profile's, highest power first,
            of any degree from 1; they select the mode `faithful`. None: the profile's.

    Raises:
        ConfigError: a value is unusable; the message names it and says what is allowed.
    """

    rel_l1_thresh: float | None = DEFAULT_THRESHOLD
    start_percent: float = 0.0
    end_percent: float = 1.0
    max_skip: int = 0
    cache_device: str = "auto"
    profile: str = "auto"
    mode: str = "forecast"
    cached: str = "auto"
    indicator: str = "auto"
    predictor: str = "auto"
    preset: str = "auto"
    coefficients: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.rel_l1_thresh is not None:
            checked_number("rel_l1_thresh", self.rel_l1_thresh, 0.0, MAX_THRESHOLD)
        start = checked_number("start_percent", self.start_percent, 0.0, 1.0)
        end = checked_number("end_percent", self.end_percent, 0.0, 1.0)
        if start >= end:
            raise ConfigError(
                f"start_percent must be below end_percent, not {start:g} with end_percent {end:g}"
            )
        _whole("max_skip", self.max_skip, 0)
        if not isinstance(self.profile, str) or not self.profile:
            raise ConfigError(f"profile must be a profile's name or 'auto', not {self.profile!r}")
        _choice("cache_device", self.cache_device, CACHE_DEVICES)
        _choice("mode", self.mode, MODES)
        _choice("cached", self.cached, CACHED)
        _choice("indicator", self.indicator, INDICATORS)
        _choice("predictor", self.predictor, PREDICTORS)
        _preset(self.preset)
        if self.coefficients is not None:
            object.__setattr__(self, "coefficients", checked_coefficients(self.coefficients))
            if self.indicator not in ("auto", "profile"):
                raise ConfigError(
                    "coefficients rescale the indicator profile: indicator must be auto or "
                    f"profile, not {self.indicator!r}"
                )

    @property
    def untouched(self) -> bool:
        """Whether threshold, mode and its parts are left to what is known of the model."""
        parts = (self.cached, self.indicator, self.predictor)
        named = self.rel_l1_thresh is not None or self.coefficients is not None
        return not named and self.mode == MODES[0] and set(parts) == {"auto"}

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> TeaCacheConfig:
        """A config from JSON-like `values`; an unknown key is an error naming the nearest one."""
        for key in values:
            check_setting(key)
        return cls(**values)
