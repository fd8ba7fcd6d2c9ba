"""Resolving a preset, or an untouched configuration, to the settings of one run.

A wanted speed-up is a number of computed steps. A quality level is an error: a calibration knows
the fastest plan that stays below it. Where no plan was tried, or none was better, the forecast
measures its own error, and keeps the wanted number of steps by it. A sampler that cannot be
forecast falls back on the family's published thresholds, in the faithful mode.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ..config import LEARN, TeaCacheConfig, wanted_speedup
from ..families.spec import Family
from ..profiles.calibrated import Calibration
from ..profiles.conditions import Conditions, differences, incompatibility
from ..profiles.plans import adapt_plan, apply_limits, steps_for
from ..profiles.profile import Profile
from ..schedule import Schedule
from .budget import budget_of, rates_at, usual_rates
from .policy import policy_of
from .strategy import (
    FORECAST_ONLY,
    Budget,
    RunSettings,
    SamplerTraits,
    budgeted_settings,
    planned_settings,
    recording_settings,
    resolve_strategy,
    settings_from_config,
    threshold_of,
)

LEVEL_ERRORS = {"quality": 0.01, "balanced": 0.03, "fast": 0.1}
"""Largest relative error of the latent that a level allows in the worst calibration run."""
LEVEL_THRESHOLDS = {"quality": 0.05, "balanced": 0.2, "fast": 0.5}
"""Thresholds of the forecast's own error control, where there is no calibration."""
FEW_STEPS, FEW_STEPS_THRESHOLD = 8, 0.35
"""Runs of so many steps and fewer, and the highest threshold there. With it every picture that
skipped a step was nearer to the uncached one than by sampling with fewer steps, 11 of 11 tuning
pairs of the demo, digits and photos models at 8 steps; with 0.5 12 of 16 were."""
LEVEL_SPEEDUPS = {"quality": 1.5, "balanced": 2.0, "fast": 3.0}
"""Speed-ups that the levels stand for where only published thresholds are known."""
KNOWN_SAMPLER = SamplerTraits("")
_EFFECT = re.compile(r"(\d+(?:\.\d+)?)x")


@dataclass(frozen=True)
class RunContext:
    """What is known when a run begins.

    Args:
        profile: the family's, or the one that the user named.
        conditions: of the run: weights, sampler, noise levels, size.
        sampler: its traits.
        calibration: the user's own, if one was named or found.
        named: whether the user named that calibration.
        forecast_only: the model's blocks are not known.
    """

    profile: Profile
    conditions: Conditions
    sampler: SamplerTraits
    calibration: Calibration | None = None
    named: bool = False
    forecast_only: bool = False


def resolve_settings(config: TeaCacheConfig, context: RunContext) -> RunSettings:
    """What a run does, with the evidence for it."""
    if config.preset == "auto" or config.rel_l1_thresh == 0:
        calibrated = context.calibration is not None and context.sampler.plannable
        if config.untouched and calibrated:
            return _calibrated_default(config, context)
        return _by_config(config, context)
    base = TeaCacheConfig(
        rel_l1_thresh=None,
        start_percent=config.start_percent,
        end_percent=config.end_percent,
        max_skip=config.max_skip,
        cache_device=config.cache_device,
        profile=config.profile,
        preset=config.preset,
    )
    if config.preset == LEARN:
        return _recorded(base, context)
    if config.preset == "faithful":
        faithful = replace(base, mode="faithful", coefficients=config.coefficients)
        settings = _by_config(faithful, context)
        label = "calibrated" if settings.profile.calibrated else "uncalibrated"
        evidence = f"TeaCache as published, profile {settings.profile.name}, {label}"
    elif context.sampler.forecast:
        settings, evidence = _by_plan_or_forecast(base, context)
    else:
        settings, evidence = _by_threshold(base, context)
    notes = settings.notes
    if not config.untouched:
        notes += (f"preset={config.preset} decides: threshold, mode and its parts are not used.",)
    return replace(settings, evidence=f"preset {config.preset}: {evidence}.", notes=notes)


def learned_name(conditions: Conditions) -> str:
    """The name of the profile that a run with `preset` = `learn` saves."""
    return f"learned-{conditions.family}-{conditions.weights_digest[:6]}"


def _recorded(config: TeaCacheConfig, context: RunContext) -> RunSettings:
    """Every step is computed, and recorded where the sampler can be forecast at all."""
    settings = recording_settings(config, context.profile, context.forecast_only)
    if context.sampler.plannable:
        what = f"profile {learned_name(context.conditions)} is saved when the run ends"
    else:
        what = f"nothing is learned ({context.sampler.why_not_planned})"
    return replace(settings, evidence=f"preset {LEARN}: every step is computed; {what}.")


def _by_config(config: TeaCacheConfig, context: RunContext) -> RunSettings:
    """By mode and threshold; the faithful mode with the user's own coefficients, if there are."""
    calibration, profile = context.calibration, context.profile
    notes: tuple[str, ...] = ()
    if calibration is not None and config.coefficients is None:
        if calibration.profile.coefficients and not calibration.fit_rejection:
            profile = calibration.profile
        elif context.named:
            notes = (
                f"Profile {calibration.name} holds no coefficients: {calibration.fit_rejection}.",
            )
    settings = settings_from_config(config, profile, context.sampler, context.forecast_only)
    return replace(settings, notes=(*settings.notes, *notes))


def _calibrated_default(config: TeaCacheConfig, context: RunContext) -> RunSettings:
    """The calibration's plan with as many computed steps as the default mode had there; the
    default mode itself where it was better than that plan."""
    calibration = context.calibration
    assert calibration is not None
    default = settings_from_config(config, context.profile, context.sampler, context.forecast_only)
    refused = incompatibility(calibration.conditions, context.conditions)
    if refused:
        note = f"Profile {calibration.name} is not used: {refused}."
        return replace(default, notes=(*default.notes, note))
    before = calibration.default_result
    if before is None:
        evidence = f"profile {calibration.name}: one uncached run, in which no plan was tried"
        return replace(default, evidence=f"{evidence}.")
    tried = calibration.nearest_result(before.computed_steps)
    if tried is None or tried.forecast or not tried.better_than(before):
        evidence = f"profile {calibration.name}: no plan was better than the forecast when tried"
        return replace(default, evidence=f"{evidence}.")
    speedup = calibration.speedup(before.computed_steps)
    settings, evidence = _by_calibration(config, context, calibration, speedup)
    return replace(settings, evidence=f"{evidence}.")


def _by_plan_or_forecast(config: TeaCacheConfig, context: RunContext) -> tuple[RunSettings, str]:
    speedup, calibration = wanted_speedup(config.preset), context.calibration
    aside, sampler = "", context.sampler
    if calibration is not None:
        refused = incompatibility(calibration.conditions, context.conditions)
        if not sampler.plannable:
            refused = f"the sampler {sampler.name} cannot be planned, {sampler.why_not_planned}"
        if not refused and (speedup or calibration.plan_results):
            wanted = speedup or _fastest_below(calibration, LEVEL_ERRORS[config.preset])
            return _by_calibration(config, context, calibration, wanted)
        aside = f" (profile {calibration.name} is not used: {refused})" if refused else ""
    if speedup is None:
        threshold = LEVEL_THRESHOLDS[config.preset]
        if context.conditions.steps <= FEW_STEPS:
            threshold = min(threshold, FEW_STEPS_THRESHOLD)
        with_threshold = replace(config, rel_l1_thresh=threshold)
        settings = settings_from_config(
            with_threshold, context.profile, context.sampler, context.forecast_only
        )
        evidence = f"no calibration of this model{aside}; forecast, threshold {threshold:g}"
        return settings, f"{evidence}, which measures its own error"
    settings, evidence = _by_budget(config, context, speedup, None)
    return settings, f"no calibration of this model{aside}; {evidence}"


def _by_calibration(
    config: TeaCacheConfig, context: RunContext, calibration: Calibration, speedup: float
) -> tuple[RunSettings, str]:
    made, run = calibration.conditions, context.conditions
    count = steps_for(run.steps, speedup)
    own = calibration.nearest_plan(steps_for(made.steps, speedup))
    tried = calibration.nearest_result(steps_for(made.steps, speedup))
    if own is None or tried is None or tried.forecast:
        settings, evidence = _by_budget(config, context, speedup, calibration)
    else:
        plan = apply_limits(adapt_plan(own, made.sigmas, run.sigmas, count), run.steps, config)
        settings = planned_settings(config, context.profile, plan)
        if plan == own and len(plan) == tried.computed_steps and made.sigmas == run.sigmas:
            settings = replace(settings, tried_error=tried.mean_error)
        evidence = f"{len(plan)} of {run.steps} steps planned"
    evidence = f"profile {calibration.name}: {evidence}"
    if tried is not None:
        evidence += f"; error {100 * tried.worst_error:.2g} % at worst with"
        evidence += f" {tried.computed_steps} of {made.steps} when tried"
    changed = differences(made, run)
    if changed:
        evidence += f"; adapted: this run has {', '.join(changed)}"
    return settings, evidence


def _by_budget(
    config: TeaCacheConfig, context: RunContext, speedup: float, calibration: Calibration | None
) -> tuple[RunSettings, str]:
    """A forecast that keeps the wanted number of computed steps, as far as steps can be skipped.

    Args:
        calibration: tells the usual errors of this model; None for those of any model.
    """
    schedule, steps = Schedule(context.conditions.sigmas), context.conditions.steps
    if calibration is not None and calibration.error_rates:
        known = Schedule(calibration.conditions.sigmas).axis
        rates = rates_at(calibration.error_rates, known, schedule.axis)
    else:
        rates = usual_rates(
            schedule.axis, context.sampler.adds_noise, ends=not schedule.leaves_noise
        )
    count = steps_for(steps, speedup)
    settings = budgeted_settings(
        config, context.profile, Budget(count, tuple(rates), context.sampler.error_growth)
    )
    budget = budget_of(settings, schedule, policy_of(settings, context.sampler, schedule))
    assert budget is not None
    least = budget.least()
    evidence = f"forecast, {max(count, least)} of {steps} steps computed"
    if count < least:
        limited = config.max_skip or config.start_percent > 0 or config.end_percent < 1
        if limited:
            why = "within max_skip and the range"
        else:
            why = "to measure the error" + " and to end" * (not schedule.leaves_noise)
        evidence += f" in place of {count}: so many must be, {why}"
    return settings, evidence


def _fastest_below(calibration: Calibration, error: float) -> float:
    """The largest speed-up whose plan stayed below `error`; the smallest one where none did."""
    good = [
        tried.computed_steps for tried in calibration.plan_results if tried.worst_error <= error
    ]
    every = [tried.computed_steps for tried in calibration.plan_results] or [calibration.steps]
    return calibration.speedup(min(good) if good else max(every))


def _by_threshold(config: TeaCacheConfig, context: RunContext) -> tuple[RunSettings, str]:
    """The faithful mode at a published threshold, for a sampler that cannot be extrapolated."""
    wanted = wanted_speedup(config.preset) or LEVEL_SPEEDUPS[config.preset]
    faithful = replace(config, mode="faithful")
    settings, sampler = _by_config(faithful, context), context.sampler
    if sampler.computed_in_full:
        settings = replace(settings, every_step=True)
    why = f"the sampler {sampler.name} cannot be planned ({sampler.why_not_planned})"
    if settings.every_step:
        return settings, f"{why}: every step is computed"
    profile = settings.profile
    effects = sorted(
        (float(match[1]), threshold.value)
        for threshold in profile.thresholds
        if threshold.effect and (match := _EFFECT.match(threshold.effect))
    )
    if effects:
        effect, value = min(effects, key=lambda pair: abs(pair[0] - wanted))
        evidence = f"{why}; threshold {value:g} of profile {profile.name}, told to give {effect:g}x"
    else:
        value = profile.default_threshold * wanted / LEVEL_SPEEDUPS["balanced"]
        evidence = f"{why}, and no threshold's effect is known: {value:g}, a guess"
    return _by_config(replace(faithful, rel_l1_thresh=value), context), evidence


def describe_settings(
    config: TeaCacheConfig,
    family: Family,
    profile: Profile,
    calibration: Calibration | None = None,
) -> str:
    """What was recognised and what will be done, in one line for the node and the log.

    Args:
        calibration: the user's own profile that `config` names.
    """
    own = [] if calibration is None else [f"profile {calibration.name}, your own"]
    if config.preset != "auto" and config.rel_l1_thresh != 0:
        parts = [family.name, f"preset {config.preset}, resolved when a run starts"]
        parts += [FORECAST_ONLY] if family.forecast_only else []
        return " · ".join([*parts, *own])
    if calibration is not None and config.untouched:
        return " · ".join([family.name, "planned", *own])
    if config.coefficients is not None:
        profile, calibration = profile.with_coefficients(config.coefficients), None
    strategy, _ = resolve_strategy(config, KNOWN_SAMPLER, family.forecast_only)
    threshold = threshold_of(config, profile, strategy)
    source = "recommended" if config.rel_l1_thresh is None else "set"
    parts = [family.name, strategy.name]
    parts.append(f"threshold {threshold:g} ({source})" if threshold else "off")
    if strategy.indicator == "profile" and calibration is not None:
        parts += own
    elif strategy.indicator == "profile":
        label = "" if profile.calibrated else ", uncalibrated"
        if config.profile == "auto" and family.profile_for_run is not None:
            label += ", or by latent size and noise range"
        parts.append(f"profile {profile.name}{label}")
    elif config.profile != "auto":
        parts.append(f"profile {config.profile} is for the faithful mode: not used")
    if family.forecast_only:
        parts.append(FORECAST_ONLY)
    return " · ".join(parts)
