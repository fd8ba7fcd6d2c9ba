"""A calibration as it is kept: a profile of the user's own, its plans, and where they come from."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from .conditions import Conditions
from .plans import Plan
from .profile import PROFILE_VERSION, Profile, profile_in
from .schema import Fields, finite

KIND = "calibration"
SCATTER = 400


@dataclass(frozen=True)
class Outcome:
    """What a plan gave when it was tried: relative L2 error of the sampled latent against the
    uncached one, mean and worst over the calibration's runs."""

    computed: int
    mean: float
    worst: float


@dataclass(frozen=True)
class Calibration:
    """What was learned of one model under one set of conditions.

    profile: the fitted coefficients, none where the fit was refused (`refused` says why).
    plans: by number of computed steps. curve: the plans that were tried, fewest steps first.
    default: what the default mode gave before. made: model's and scheduler's name, prompts, seeds,
    versions and date. ratios: mean |residual| over the one before, by step (MagCache).
    scatter: (indicator, residual) of at most `SCATTER` of the fit's points.
    """

    profile: Profile
    refused: str
    points: int
    conditions: Conditions
    plans: dict[int, Plan]
    curve: tuple[Outcome, ...]
    default: Outcome
    made: dict[str, Any] = field(default_factory=dict)
    ratios: tuple[float, ...] = ()
    scatter: tuple[tuple[float, float], ...] = ()

    @property
    def name(self) -> str:
        return self.profile.name

    @property
    def steps(self) -> int:
        return self.conditions.steps

    def speedup(self, computed: int) -> float:
        """Of a run that computes so many of the steps, where a skip costs nothing."""
        return self.steps / computed

    def outcome(self, computed: int) -> Outcome | None:
        """What the plan that was tried nearest to so many computed steps gave."""
        return min(self.curve, key=lambda o: abs(o.computed - computed), default=None)

    def plan(self, computed: int) -> Plan:
        """The plan with so many computed steps, or the nearest there is."""
        return self.plans[min(self.plans, key=lambda count: (abs(count - computed), -count))]

    def to_json(self) -> dict[str, Any]:
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
            "points": self.points,
            "refused": self.refused,
            "conditions": {
                **asdict(self.conditions),
                "sigmas": list(self.conditions.sigmas),
                "latent": list(self.conditions.latent),
            },
            "plans": [list(plan) for _, plan in sorted(self.plans.items())],
            "curve": [asdict(outcome) for outcome in self.curve],
            "default": asdict(self.default),
            "ratios": list(self.ratios),
            "scatter": [list(pair) for pair in self.scatter],
            "made": self.made,
        }


def parse_calibration(text: str, where: str) -> Calibration:
    """The calibration that `text` holds; ConfigError, in one line that begins with `where`."""
    fields = Fields.of_text(text, where)
    if fields.get("kind", None) != KIND:
        raise fields.refuse(f"kind must be {KIND!r}, not {fields.get('kind', None)!r}")
    profile = profile_in(fields)
    conditions = _conditions(fields.part("conditions"), profile.family)
    plans = {len(plan): plan for plan in _plans(fields, conditions.steps)}
    curve = fields["curve"]
    if not isinstance(curve, list):
        raise fields.refuse("curve must be a list")
    made = fields.get("made", {})
    if not isinstance(made, dict):
        raise fields.refuse("made must be an object")
    return Calibration(
        profile=profile,
        refused=str(fields.get("refused", "")),
        points=fields.whole("points", 0, 10**9),
        conditions=conditions,
        plans=plans,
        curve=tuple(_outcome(Fields(item, f"{where}: curve"), conditions) for item in curve),
        default=_outcome(fields.part("default"), conditions),
        made=made,
        ratios=tuple(fields.numbers("ratios")),
        scatter=_scatter(fields),
    )


def _conditions(fields: Fields, family: str) -> Conditions:
    sigmas = fields.numbers("sigmas", 0.0)
    if len(sigmas) < 2:
        raise fields.refuse("sigmas must be two noise levels or more")
    if fields.text("family") != family:
        raise fields.refuse(f"family must be that of the profile, {family!r}")
    latent = fields.numbers("latent", 1)
    guidance = fields.get("guidance", None)
    return Conditions(
        family=family,
        model=fields.text("model"),
        patches=str(fields.get("patches", "")),
        sampler=fields.text("sampler"),
        sigmas=tuple(sigmas),
        latent=tuple(int(size) for size in latent),
        guidance=None if guidance is None else fields.number("guidance", -math.inf, math.inf),
    )


def _plans(fields: Fields, steps: int) -> list[Plan]:
    plans = fields["plans"]
    if not isinstance(plans, list) or not plans:
        raise fields.refuse("plans must be a list of one plan or more")
    found = []
    for plan in plans:
        if (
            not isinstance(plan, list)
            or not all(isinstance(step, int) and not isinstance(step, bool) for step in plan)
            or plan != sorted(set(plan))
            or plan[:1] != [0]
            or plan[-1] != steps - 1
        ):
            raise fields.refuse(
                f"a plan must be rising steps from 0 to {steps - 1}, both included, not {plan!r}"
            )
        found.append(tuple(plan))
    return found


def _scatter(fields: Fields) -> tuple[tuple[float, float], ...]:
    pairs = fields.get("scatter", [])
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(map(finite, pair)) for pair in pairs
    ):
        raise fields.refuse("scatter must be a list of pairs of finite numbers")
    return tuple((float(x), float(y)) for x, y in pairs)


def _outcome(fields: Fields, conditions: Conditions) -> Outcome:
    return Outcome(
        fields.whole("computed", 1, conditions.steps),
        fields.number("mean", 0.0, math.inf),
        fields.number("worst", 0.0, math.inf),
    )
