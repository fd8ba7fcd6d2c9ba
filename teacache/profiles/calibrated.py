"""Calibrations: the user's own profiles, with plans and measured errors, and their JSON files."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from .conditions import Conditions
from .plans import Plan
from .profile import PROFILE_VERSION, Profile, read_profile
from .schema import JsonObject, is_finite_number

KIND = "calibration"
MAX_SCATTER_POINTS = 400


@dataclass(frozen=True)
class PlanResult:
    """The measured error of one plan, of a forecast, or of the default mode.

    An error is the relative L2 distance of the sampled latent from the uncached run's.

    Args:
        computed_steps: steps that were computed.
        mean_error, worst_error: over the runs of the calibration.
        forecast: whether no plan with this number of computed steps was better than the forecast
            that keeps the number (`engine/budget.py`), whose errors these are.
    """

    computed_steps: int
    mean_error: float
    worst_error: float
    forecast: bool = False

    def better_than(self, other: PlanResult) -> bool:
        """Whether neither its mean nor its worst error is the larger one."""
        return self.mean_error <= other.mean_error and self.worst_error <= other.worst_error

    def to_json(self) -> dict[str, Any]:
        return {
            "computed": self.computed_steps,
            "mean": self.mean_error,
            "worst": self.worst_error,
            "forecast": self.forecast,
        }


@dataclass(frozen=True)
class Calibration:
    """The result of calibrating one model under one set of conditions.

    Args:
        profile: the fitted coefficients; none if the fit was rejected.
        fit_rejection: why the fit was rejected; empty if it was not.
        fit_points: number of points that the polynomial was fitted to.
        conditions: what the calibration was made with.
        plans: a plan for each number of computed steps; none where nothing was tried.
        plan_results: the best that was measured, fewest computed steps first.
        default_result: of the default mode, without a calibration; None where nothing was tried.
        error_rates: for each step the error of a prediction one step ahead, over the product of the
            distances to its nodes; empty in files of version 0.2.
        provenance: names of the model and the scheduler, prompts, seeds, versions and date.
        residual_ratios: for each step from the second, the norm of the stack's residual over that
            of the step before (MagCache).
        scatter: (indicator, residual) of at most `MAX_SCATTER_POINTS` of the fit's points.
    """

    profile: Profile
    fit_rejection: str
    fit_points: int
    conditions: Conditions
    plans: dict[int, Plan]
    plan_results: tuple[PlanResult, ...]
    default_result: PlanResult | None
    error_rates: tuple[float, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    residual_ratios: tuple[float, ...] = ()
    scatter: tuple[tuple[float, float], ...] = ()

    @property
    def name(self) -> str:
        return self.profile.name

    @property
    def learned(self) -> bool:
        """Whether it is of one uncached run, in which nothing was tried: used only where named."""
        return bool(self.provenance.get("learned", False))

    @property
    def steps(self) -> int:
        return self.conditions.steps

    def speedup(self, computed_steps: int) -> float:
        """Speed-up of a run with that many computed steps, if skipped steps cost nothing."""
        return self.steps / computed_steps

    def nearest_result(self, computed_steps: int) -> PlanResult | None:
        """The result with the nearest number of computed steps; None if no plan was measured."""
        return min(
            self.plan_results,
            key=lambda result: abs(result.computed_steps - computed_steps),
            default=None,
        )

    def nearest_plan(self, computed_steps: int) -> Plan | None:
        """The plan with the nearest number of computed steps, of two the one with more; None where
        there are no plans."""
        return self.plans.get(
            min(self.plans, key=lambda count: (abs(count - computed_steps), -count), default=0)
        )

    def to_json(self) -> dict[str, Any]:
        """The contents of the profile's file; `parse_calibration` is the inverse."""
        profile = self.profile
        return {
            "version": PROFILE_VERSION,
            "kind": KIND,
            "name": profile.name,
            "family": profile.family,
            "indicator": profile.indicator,
            "coefficients": list(profile.coefficients),
            "thresholds": [asdict(threshold) for threshold in profile.thresholds],
            "default_threshold": profile.default_threshold,
            "calibrated": profile.calibrated,
            "source": profile.source,
            "calibrated_on": profile.calibrated_on,
            "r2": profile.r2,
            "x_range": None if profile.x_range is None else list(profile.x_range),
            "points": self.fit_points,
            "refused": self.fit_rejection,
            "conditions": self.conditions.to_json(),
            "plans": [list(plan) for _, plan in sorted(self.plans.items())],
            "curve": [result.to_json() for result in self.plan_results],
            "default": None if self.default_result is None else self.default_result.to_json(),
            "rates": list(self.error_rates),
            "ratios": list(self.residual_ratios),
            "scatter": [list(pair) for pair in self.scatter],
            "made": self.provenance,
        }


def parse_calibration(text: str, source: str) -> Calibration:
    """Read a calibration's file.

    Args:
        text: the contents of the file.
        source: name of the file, which error messages begin with.

    Raises:
        ConfigError: `text` is not a usable calibration.
    """
    data = JsonObject.parse(text, source)
    if data.get("kind", None) != KIND:
        raise data.error(f"kind must be {KIND!r}, not {data.get('kind', None)!r}")
    profile = read_profile(data)
    conditions = Conditions.from_json(data.child("conditions"))
    if conditions.family != profile.family:
        raise data.error(f"conditions: family must be that of the profile, {profile.family!r}")
    plans = {len(plan): plan for plan in _read_plans(data, conditions.steps)}
    results = data["curve"]
    if not isinstance(results, list):
        raise data.error("curve must be a list")
    provenance = data.get("made", {})
    if not isinstance(provenance, dict):
        raise data.error("made must be an object")
    return Calibration(
        profile=profile,
        fit_rejection=str(data.get("refused", "")),
        fit_points=data.integer("points", 0, 10**9),
        conditions=conditions,
        plans=plans,
        plan_results=tuple(
            _read_result(JsonObject(item, f"{source}: curve"), conditions.steps) for item in results
        ),
        default_result=(
            None
            if data["default"] is None
            else _read_result(data.child("default"), conditions.steps)
        ),
        error_rates=_read_rates(data, conditions.steps),
        provenance=provenance,
        residual_ratios=tuple(data.numbers("ratios")),
        scatter=_read_scatter(data),
    )


def _read_plans(data: JsonObject, steps: int) -> list[Plan]:
    plans = data["plans"]
    if not isinstance(plans, list) or (not plans and data["default"] is not None):
        raise data.error("plans must be a list of one plan or more")
    for plan in plans:
        if (
            not isinstance(plan, list)
            or not all(isinstance(step, int) and not isinstance(step, bool) for step in plan)
            or plan != sorted(set(plan))
            or plan[:1] != [0]
            or plan[-1] != steps - 1
        ):
            raise data.error(
                f"a plan must be rising steps from 0 to {steps - 1}, both included, not {plan!r}"
            )
    return [tuple(plan) for plan in plans]


def _read_rates(data: JsonObject, steps: int) -> tuple[float, ...]:
    rates = tuple(data.numbers("rates")) if "rates" in data else ()
    if rates and (len(rates) != steps or not all(0 < rate < math.inf for rate in rates)):
        raise data.error(f"rates must be {steps} positive numbers, one for each step")
    return rates


def _read_scatter(data: JsonObject) -> tuple[tuple[float, float], ...]:
    pairs = data.get("scatter", [])
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(map(is_finite_number, pair))
        for pair in pairs
    ):
        raise data.error("scatter must be a list of pairs of finite numbers")
    return tuple((float(x), float(y)) for x, y in pairs)


def _read_result(data: JsonObject, steps: int) -> PlanResult:
    return PlanResult(
        data.integer("computed", 1, steps),
        data.number("mean", 0.0, math.inf),
        data.number("worst", 0.0, math.inf),
        bool(data.get("forecast", False)),
    )
