"""What a preset or an untouched cache comes to: by calibration, published figures, or a guess.

A wanted speed-up is a number of computed steps, which a plan keeps exactly. A level of quality is
an error: a calibration knows the fastest plan that keeps below it. Where no calibration fits, the
forecast measures its own error as it goes, or a generic plan keeps the wanted number of steps;
only a sampler that cannot be forecast falls back on a family's published thresholds, whose effect
was measured by others, in the faithful mode.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ..config import TeaCacheConfig, wanted_speedup
from ..profiles.calibrated import Calibration
from ..profiles.conditions import Conditions, differences, why_not_sound
from ..profiles.plans import Plan, adapted_plan, generic_plan, steps_for, within_limits
from ..profiles.profile import Profile
from .choice import Choice, plain_choice, planned_choice
from .strategy import Solver

ERRORS = {"quality": 0.01, "balanced": 0.03, "fast": 0.1}
"""Largest relative error of the latent that a level allows in the worst of the tried runs."""
THRESHOLDS = {"quality": 0.05, "balanced": 0.2, "fast": 0.5}
"""The forecast's own error control, where nothing is known of the model."""
GUESSED_SPEEDUPS = {"quality": 1.5, "balanced": 2.0, "fast": 3.0}
"""What a level stands for where only published thresholds are known."""
EFFECT = re.compile(r"(\d+(?:\.\d+)?)x")


@dataclass(frozen=True)
class Known:
    """What is known before a run. profile: the family's, or the one that the user named.
    calibration: the user's own, if one was named or found; named: which of the two. packed: the
    latent is a list of tokens.
    """

    profile: Profile
    conditions: Conditions
    solver: Solver
    calibration: Calibration | None = None
    named: bool = False
    packed: bool = False


def choose(config: TeaCacheConfig, known: Known) -> Choice:
    """What a run does, and on what evidence."""
    if config.preset == "auto" or config.rel_l1_thresh == 0:
        follows = config.untouched and known.calibration is not None and known.solver.smooth
        return _calibrated_default(config, known) if follows else _plain(config, known)
    plain = TeaCacheConfig(
        rel_l1_thresh=None,
        start_percent=config.start_percent,
        end_percent=config.end_percent,
        max_skip=config.max_skip,
        cache_device=config.cache_device,
        profile=config.profile,
        preset=config.preset,
    )
    if config.preset == "faithful":
        chosen = _plain(replace(plain, mode="faithful"), known)
        label = "calibrated" if chosen.profile.calibrated else "uncalibrated"
        told = f"TeaCache as published, profile {chosen.profile.name}, {label}"
    elif known.solver.smooth:
        chosen, told = _by_plan_or_forecast(plain, known)
    else:
        chosen, told = _by_threshold(plain, known)
    notes = chosen.notes
    if not config.untouched:
        notes += (f"preset={config.preset} decides: threshold, mode and its parts are not used.",)
    return replace(chosen, evidence=f"preset {config.preset}: {told}.", notes=notes)


def _plain(config: TeaCacheConfig, known: Known) -> Choice:
    """By mode and threshold; the faithful mode with the user's own coefficients, if there are."""
    calibration, profile = known.calibration, known.profile
    notes: tuple[str, ...] = ()
    if calibration is not None:
        if calibration.profile.coefficients and not calibration.refused:
            profile = calibration.profile
        elif known.named:
            notes = (f"Profile {calibration.name} holds no coefficients: {calibration.refused}.",)
    chosen = plain_choice(config, profile, known.solver, known.packed)
    return replace(chosen, notes=(*chosen.notes, *notes))


def _calibrated_default(config: TeaCacheConfig, known: Known) -> Choice:
    """As fast as the default was on this model before it was calibrated, but planned; the default
    itself where it was better than its plan."""
    calibration = known.calibration
    assert calibration is not None
    refused = why_not_sound(calibration.conditions, known.conditions)
    if refused:
        chosen = plain_choice(config, known.profile, known.solver, known.packed)
        told = f"Profile {calibration.name} is not used: {refused}."
        return replace(chosen, notes=(*chosen.notes, told))
    default = calibration.default
    speedup = calibration.speedup(default.computed)
    tried = calibration.outcome(default.computed)
    if tried is None or tried.worst > default.worst or tried.mean > default.mean:
        chosen = plain_choice(config, known.profile, known.solver, known.packed)
        told = f"profile {calibration.name}: no plan was better than the forecast when tried"
        return replace(chosen, evidence=f"{told}.")
    chosen, told = _by_calibration(config, known, calibration, speedup)
    return replace(chosen, evidence=f"{told}.")


def _by_plan_or_forecast(config: TeaCacheConfig, known: Known) -> tuple[Choice, str]:
    speedup, calibration = wanted_speedup(config.preset), known.calibration
    aside = ""
    if calibration is not None:
        refused = why_not_sound(calibration.conditions, known.conditions)
        if not refused:
            wanted = speedup or _fastest_below(calibration, ERRORS[config.preset])
            return _by_calibration(config, known, calibration, wanted)
        aside = f" (profile {calibration.name} is not used: {refused})"
    if speedup is None:
        threshold = THRESHOLDS[config.preset]
        chosen = plain_choice(
            replace(config, rel_l1_thresh=threshold), known.profile, known.solver, known.packed
        )
        told = f"no calibration of this model{aside}; forecast, threshold {threshold:g}"
        return chosen, f"{told}, which measures its own error"
    steps = known.conditions.steps
    plan = generic_plan(known.conditions.sigmas, steps_for(steps, speedup))
    told = f"no calibration of this model{aside}; a generic plan, {len(plan)} of {steps} steps"
    return _planned(config, known, plan), f"{told} computed; its quality is not known"


def _by_calibration(
    config: TeaCacheConfig, known: Known, calibration: Calibration, speedup: float
) -> tuple[Choice, str]:
    made, run = calibration.conditions, known.conditions
    count = steps_for(run.steps, speedup)
    own = calibration.plan(steps_for(made.steps, speedup))
    plan = adapted_plan(own, made.sigmas, run.sigmas, count)
    tried = calibration.outcome(len(own))
    told = f"profile {calibration.name}: {len(plan)} of {run.steps} steps planned"
    if tried is not None:
        told += f"; {_shown(tried.worst)} at worst with {tried.computed} of {made.steps} when tried"
    other = differences(made, run)
    if other:
        told += f"; adapted: this run has {', '.join(other)}"
    return _planned(config, known, plan), told


def _planned(config: TeaCacheConfig, known: Known, plan: Plan) -> Choice:
    limited = within_limits(plan, known.conditions.steps, config)
    return planned_choice(config, known.profile, limited)


def _fastest_below(calibration: Calibration, error: float) -> float:
    """The largest speed-up whose plan kept below `error`; the slowest one where none did."""
    good = [tried.computed for tried in calibration.curve if tried.worst <= error]
    every = [tried.computed for tried in calibration.curve] or [calibration.steps]
    return calibration.speedup(min(good) if good else max(every))


def _by_threshold(config: TeaCacheConfig, known: Known) -> tuple[Choice, str]:
    """The faithful mode, for a sampler whose noise levels follow no trajectory."""
    wanted = wanted_speedup(config.preset) or GUESSED_SPEEDUPS[config.preset]
    faithful = replace(config, mode="faithful")
    profile = _plain(faithful, known).profile
    effects = sorted(
        (float(found[1]), threshold.value)
        for threshold in profile.thresholds
        if threshold.effect and (found := EFFECT.match(threshold.effect))
    )
    why = f"the sampler {known.solver.name} cannot be planned"
    if effects:
        effect, value = min(effects, key=lambda pair: abs(pair[0] - wanted))
        told = f"{why}; threshold {value:g} of profile {profile.name}, told to give {effect:g}x"
    else:
        value = profile.default_threshold * wanted / GUESSED_SPEEDUPS["balanced"]
        told = f"{why}, and no threshold's effect is known: {value:g}, a guess"
    return _plain(replace(faithful, rel_l1_thresh=value), known), told


def _shown(error: float) -> str:
    return f"error {100 * error:.2g} %"
