"""The settings of one cache, checked when they are made."""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import Any

CACHE_DEVICES = ("auto", "device", "cpu")
INDICATORS = ("auto", "modulated_input", "timestep", "timestep_projection", "stack_input")
PREDICTORS = ("reuse",)
MAX_THRESHOLD = 100.0


class ConfigError(ValueError):
    """A setting is unusable. The message names it, what is wrong, and what is allowed."""


def _number(name: str, value: object, low: float, high: float) -> float:
    allowed = f"{name} must be a number from {low:g} to {high:g}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{allowed}, not {type(value).__name__} {value!r}")
    if not math.isfinite(value) or not low <= value <= high:
        raise ConfigError(f"{allowed}, not {value}")
    return float(value)


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")


@dataclass(frozen=True)
class TeaCacheConfig:
    """What the user asks of the cache. Immutable; refuses unusable values with `ConfigError`.

    rel_l1_thresh: accumulated relative L1 distance below which a step is skipped
        (arXiv 2411.19108, eq. 6). 0 turns the cache off; `None` takes the profile's default.
    start_percent, end_percent: share of this run's steps, 0 to 1, within which steps may be
        skipped. The first and last step of a run are always computed.
    max_skip: most steps skipped in a row; 0 sets no limit, as published.
    cache_device: where residuals wait: `device` beside the model, `cpu` in main memory;
        `auto` is `device`.
    profile: name of a coefficient profile, or `auto` for the family's own.
    indicator: how change is measured, or `auto` for the profile's own.
    predictor: what stands in for the blocks on a skipped step.
    """

    rel_l1_thresh: float | None = 0.2
    start_percent: float = 0.0
    end_percent: float = 1.0
    max_skip: int = 0
    cache_device: str = "auto"
    profile: str = "auto"
    indicator: str = "auto"
    predictor: str = "reuse"

    def __post_init__(self) -> None:
        if self.rel_l1_thresh is not None:
            _number("rel_l1_thresh", self.rel_l1_thresh, 0.0, MAX_THRESHOLD)
        start = _number("start_percent", self.start_percent, 0.0, 1.0)
        end = _number("end_percent", self.end_percent, 0.0, 1.0)
        if start >= end:
            raise ConfigError(
                f"start_percent must be below end_percent, not {start:g} with end_percent {end:g}"
            )
        if isinstance(self.max_skip, bool) or not isinstance(self.max_skip, int):
            raise ConfigError(
                f"max_skip must be a whole number from 0, not {type(self.max_skip).__name__} "
                f"{self.max_skip!r}"
            )
        if self.max_skip < 0:
            raise ConfigError(f"max_skip must be a whole number from 0, not {self.max_skip}")
        if not isinstance(self.profile, str) or not self.profile:
            raise ConfigError(f"profile must be a profile's name or 'auto', not {self.profile!r}")
        _choice("cache_device", self.cache_device, CACHE_DEVICES)
        _choice("indicator", self.indicator, INDICATORS)
        _choice("predictor", self.predictor, PREDICTORS)

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> TeaCacheConfig:
        """A config from JSON-like `values`; an unknown key is an error naming the nearest one."""
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ConfigError(f"unknown setting {key!r}{hint} Known: {', '.join(known)}")
        return cls(**values)
