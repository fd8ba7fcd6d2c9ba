"""What a run does: the sampler's traits, the cache's strategy, and the settings of one run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..config import NEVER_SKIP, TeaCacheConfig
from ..profiles.profile import Profile
from .growth import Growth, interpolation_growth, random_walk_growth

RATE_THRESHOLD = 0.2
"""Recommended threshold of the indicator `rate`, which no profile rescales."""

AMPLIFIED = 2.0
"""How much more an error counts with samplers that enlarge it: those that combine derivatives of
three steps and more, those of CFG++, and unknown ones. Chosen on two to four tuning pairs of the
demo and photos models at 20 and 30 steps."""


@dataclass(frozen=True)
class SamplerTraits:
    """What is known of a sampler.

    Args:
        name: as the host calls it.
        forecast: what it follows may be extrapolated from step to step.
        euler: a step is x + (next sigma - sigma) * derivative.
        one_eval_per_step: it evaluates once at each level of the schedule, in order.
        foreign: it is in no table, because it is another pack's, or newer than the table: what it
            does is seen while it runs.
        around_known: it is a foreign wrapper of one sampler that is known, which takes the steps.
        adds_noise: it adds noise between evaluations, so that the denoised latent is continued in
            place of the derivative, which holds that noise.
        continues_a_branch: it continues a branch of the guidance, as those of CFG++ do.
        visits_every_level: it evaluates at every level of the schedule, also where the sample does
            not move; otherwise a schedule may be padded with levels that are left out.
        raises_levels: it adds noise before it evaluates, at a level above that of its step.
        computed_in_full: why every step is computed unless the faithful mode is asked for, as the
            end of a sentence that begins with the sampler; empty where steps may be skipped.
        adaptive: it may judge its next noise level by the model's answer, so that every step is
            computed in the faithful mode, too.
        high_order: it combines the derivatives of three steps and more, with weights of both signs.
    """

    name: str
    forecast: bool = True
    euler: bool = False
    one_eval_per_step: bool = False
    visits_every_level: bool = False
    computed_in_full: str = ""
    adaptive: bool = False
    foreign: bool = False
    around_known: bool = False
    raises_levels: bool = False
    adds_noise: bool = False
    continues_a_branch: bool = False
    high_order: bool = False

    @property
    def error_weight(self) -> float:
        """How much more an expected error counts than with Euler's method."""
        unknown = self.foreign and not self.around_known
        enlarges = unknown or self.continues_a_branch or self.high_order
        return AMPLIFIED if enlarges else 1.0

    @property
    def error_growth(self) -> Growth:
        """How the error of a prediction grows with the distance to the cached values."""
        return random_walk_growth if self.adds_noise else interpolation_growth

    @property
    def plannable(self) -> bool:
        """Whether plans that were made for other runs hold for its own."""
        return self.forecast and not self.foreign and not self.adds_noise

    @property
    def why_not_planned(self) -> str:
        """Why no plan, and no residual, is continued with a sampler that is not `plannable`."""
        if self.foreign:
            return "what it does between the steps is not known"
        return f"it {self.computed_in_full}" if self.computed_in_full else "it adds noise"


@dataclass(frozen=True)
class CacheStrategy:
    """What is cached, how change is measured, and how a cached value is continued.

    Args:
        cached: the `residual` of each branch's block stack, or the whole `prediction`.
        indicator, predictor: as in `TeaCacheConfig`, without `auto`; `plan` as an indicator means
            that the computed steps are known before the run.
    """

    cached: str
    indicator: str
    predictor: str

    @property
    def caches_prediction(self) -> bool:
        return self.cached == "prediction"

    @property
    def follows_prediction(self) -> bool:
        """Whether the evaluation as a whole is decided, by the prediction after guidance."""
        return self.caches_prediction or self.indicator == "rate"

    @property
    def name(self) -> str:
        """The mode's name, or the parts of a strategy that is no mode."""
        names = [name for name, known in (MODES | {"planned": PLANNED}).items() if known == self]
        return names[0] if names else f"{self.cached}, {self.indicator}, {self.predictor}"


FAITHFUL = CacheStrategy("residual", "profile", "reuse")
"""TeaCache as published."""
FORECAST = CacheStrategy("prediction", "rate", "damped")
"""The mode that measured best (docs/results.md)."""
PLANNED = CacheStrategy("prediction", "plan", "damped")
"""As `FORECAST`, with the computed steps known before the run."""
FORECAST_ONLY = "forecast only: the faithful mode needs to know the blocks"
MODES = {"forecast": FORECAST, "faithful": FAITHFUL}


@dataclass(frozen=True)
class Budget:
    """A wanted number of computed steps, which a forecast keeps (`engine/budget.py`).

    Args:
        count: of computed steps.
        rates: the usual error of each step (`budget.usual_rates`).
        growth: of the errors.
    """

    count: int
    rates: tuple[float, ...]
    growth: Growth = interpolation_growth


@dataclass(frozen=True)
class RunSettings:
    """Everything that is decided before the first step of a run.

    Args:
        config: with the range of steps that applies.
        threshold: in the indicator's distance; 0 turns the cache off.
        plan: indices of the computed steps, where they are known before the run.
        budget: how many steps are computed, where that is wanted; the threshold is then 1, and
            distances are parts of the one that keeps the number.
        notes: one sentence for each part that differs from what was asked for.
        evidence: what a preset was resolved to, and why.
        tried_error: mean relative error of the sampled latent with this plan in its calibration;
            None where it was not tried on these noise levels.
        every_step: all are computed.
    """

    config: TeaCacheConfig
    profile: Profile
    strategy: CacheStrategy
    threshold: float
    plan: tuple[int, ...] | None = None
    budget: Budget | None = None
    notes: tuple[str, ...] = ()
    evidence: str = ""
    tried_error: float | None = None
    every_step: bool = False

    @property
    def wanted_steps(self) -> int | None:
        """The number of computed steps that is aimed at; None where the threshold decides."""
        if self.plan is not None:
            return len(self.plan)
        return None if self.budget is None else self.budget.count


def requested_strategy(config: TeaCacheConfig) -> CacheStrategy:
    """The strategy that `config` asks for."""
    parts = {"cached": config.cached, "indicator": config.indicator, "predictor": config.predictor}
    named = {part: value for part, value in parts.items() if value != "auto"}
    if "cached" not in named and named.get("indicator") == "profile":
        named["cached"] = "residual"
    mode = config.mode if config.coefficients is None else "faithful"
    return replace(MODES[mode], **named)


def resolve_strategy(
    config: TeaCacheConfig, sampler: SamplerTraits, forecast_only: bool = False
) -> tuple[CacheStrategy, list[str]]:
    """The strategy that a run uses.

    Args:
        forecast_only: the model's blocks are not known (`Family.forecast_only`).

    Returns:
        The strategy, and one sentence for each part that differs from `config`.
    """
    strategy, notes = requested_strategy(config), []
    if forecast_only and not strategy.caches_prediction:
        notes.append(f"{FORECAST_ONLY[:1].upper()}{FORECAST_ONLY[1:]}.")
        strategy = FORECAST
    if strategy.caches_prediction and strategy.indicator == "profile":
        notes.append(
            "cached=prediction runs nothing of the model on a skipped step, so that "
            "indicator=profile has nothing to read: rate is used."
        )
        strategy = replace(strategy, indicator="rate")
    if sampler.plannable or (sampler.forecast and strategy.caches_prediction):
        return strategy, notes
    why, name = sampler.why_not_planned, sampler.name
    if sampler.computed_in_full and (sampler.adaptive or strategy != FAITHFUL):
        notes.append(f"The sampler {name} {sampler.computed_in_full}: every step is computed.")
    elif forecast_only:
        notes.append(f"The sampler {name} cannot be forecast ({why}): every step is computed.")
    elif strategy == FORECAST:
        notes.append(f"The sampler {name} cannot be forecast ({why}): the faithful mode is used.")
    elif strategy != FAITHFUL:
        notes.append(
            f"The sampler {name} cannot be extrapolated ({why}): cached={FAITHFUL.cached}, "
            f"indicator={FAITHFUL.indicator} and predictor={FAITHFUL.predictor} are used."
        )
    return FORECAST if forecast_only else FAITHFUL, notes


def threshold_of(config: TeaCacheConfig, profile: Profile, strategy: CacheStrategy) -> float:
    """The threshold of `config`, or the recommended one where it names none."""
    if config.rel_l1_thresh is not None:
        return config.rel_l1_thresh
    return RATE_THRESHOLD if strategy.indicator == "rate" else profile.default_threshold


def settings_from_config(
    config: TeaCacheConfig, profile: Profile, sampler: SamplerTraits, forecast_only: bool = False
) -> RunSettings:
    """The settings that follow from mode and threshold."""
    if config.coefficients is not None:
        profile = profile.with_coefficients(config.coefficients)
    strategy, notes = resolve_strategy(config, sampler, forecast_only)
    threshold = threshold_of(config, profile, strategy)
    whole_range = config.start_percent == 0.0 and config.end_percent == 1.0
    if strategy.indicator == "profile" and whole_range:
        config = replace(
            config, start_percent=profile.start_percent, end_percent=profile.end_percent
        )
    in_full = bool(sampler.computed_in_full) and requested_strategy(config) != FAITHFUL
    every_step = sampler.adaptive or in_full or (forecast_only and not sampler.forecast)
    return RunSettings(
        config, profile, strategy, threshold, notes=tuple(notes), every_step=every_step
    )


def planned_settings(
    config: TeaCacheConfig, profile: Profile, plan: tuple[int, ...]
) -> RunSettings:
    """Settings that compute the steps of `plan` and predict all others."""
    return RunSettings(config, profile, PLANNED, 1.0, plan)


def budgeted_settings(config: TeaCacheConfig, profile: Profile, budget: Budget) -> RunSettings:
    """Settings of a forecast that computes as many steps as `budget` says."""
    return RunSettings(config, profile, FORECAST, 1.0, budget=budget)


def recording_settings(
    config: TeaCacheConfig, profile: Profile, forecast_only: bool = False
) -> RunSettings:
    """Settings that compute every step and read the profile's indicator, if there is one."""
    every = replace(config, start_percent=0.0, end_percent=1.0)
    strategy = FORECAST if forecast_only else FAITHFUL
    return RunSettings(every, replace(profile, warmup_steps=0), strategy, NEVER_SKIP)
