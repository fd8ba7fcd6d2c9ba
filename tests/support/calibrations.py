"""Calibrations made by hand, for tests of what is done with one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from teacache.profiles.calibrated import Calibration, PlanResult
from teacache.profiles.conditions import Conditions
from teacache.profiles.plans import generic_plan
from teacache.profiles.profile import load_profiles


def schedule(steps: int, shift: float = 3.0) -> tuple[float, ...]:
    times = [1 - k / steps for k in range(steps + 1)]
    return tuple(shift * t / (1 + (shift - 1) * t) for t in times)


def conditions(steps: int = 50, **changed: Any) -> Conditions:
    made = Conditions("sd3", "abc", "", "euler", schedule(steps), (16, 16, 16), 3.0)
    return replace(made, **changed)


def calibration(**changed: Any) -> Calibration:
    made = conditions()
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
    plans = {count: generic_plan(made.sigmas, count) for count in counts}
    curve = tuple(
        PlanResult(count, error, 2 * error)
        for count, error in ((12, 0.06), (17, 0.02), (25, 0.01), (33, 0.004))
    )
    own = Calibration(profile, "", 200, made, plans, curve, PlanResult(17, 0.05, 0.07))
    return replace(own, **changed)


def named(name: str, **changed: Any) -> Calibration:
    own = calibration(**changed)
    return replace(own, profile=replace(own.profile, name=name))
