"""Calibrations with made-up values, for tests that need one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from teacache.profiles.calibrated import Calibration, PlanResult
from teacache.profiles.conditions import Conditions
from teacache.profiles.plans import Plan
from teacache.profiles.profile import load_profiles


def shifted_sigmas(steps: int, shift: float = 3.0) -> tuple[float, ...]:
    """A flow-matching schedule with a timestep shift, from 1 to 0."""
    times = [1 - k / steps for k in range(steps + 1)]
    return tuple(shift * t / (1 + (shift - 1) * t) for t in times)


def conditions(steps: int = 50, **changed: Any) -> Conditions:
    """Conditions of an SD3 run; `changed` replaces fields."""
    base = Conditions("sd3", "abc", "", "euler", shifted_sigmas(steps), (16, 16, 16), 3.0)
    return replace(base, **changed)


def even_plan(steps: int, count: int) -> Plan:
    """`count` of `steps` steps, evenly spaced, with the first and the last one."""
    return tuple(round(number * (steps - 1) / (count - 1)) for number in range(count))


def calibration(**changed: Any) -> Calibration:
    """A calibration of an SD3 model; `changed` replaces fields."""
    base = conditions()
    profile = replace(
        load_profiles()["sd3-uncalibrated"],
        name="mine",
        coefficients=(0.0, 0.0, 0.0, 2.0, 0.0),
        calibrated=True,
        default_threshold=0.3,
        r2=0.9,
        x_range=(0.0, 1.0),
    )
    counts = range(10, 51)
    plans = {count: even_plan(base.steps, count) for count in counts}
    curve = tuple(
        PlanResult(count, error, 2 * error)
        for count, error in ((12, 0.06), (17, 0.02), (25, 0.01), (33, 0.004))
    )
    result = Calibration(profile, "", 200, base, plans, curve, PlanResult(17, 0.05, 0.07))
    return replace(result, **changed)


def calibration_named(name: str, **changed: Any) -> Calibration:
    """A calibration with another name; `changed` replaces fields."""
    base = calibration(**changed)
    return replace(base, profile=replace(base.profile, name=name))
