"""Overrides what a run does, for a calibration, instead of the user's settings."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import TeaCacheConfig
from ..engine.presets import RunContext
from ..engine.run import RunObserver
from ..engine.strategy import (
    Budget,
    RunSettings,
    budgeted_settings,
    planned_settings,
    recording_settings,
    settings_from_config,
)
from ..profiles.plans import Plan


@dataclass
class RunOverride:
    """One run of a calibration.

    With `plan` it computes the steps of the plan; with `budget` it is a forecast that keeps a
    number of computed steps; with `observer` it computes every step and shows it to the observer;
    with none of them it does what the settings say, without any earlier calibration.

    Args:
        context: what the host knew when the run began; set by the run.
    """

    plan: Plan | None = None
    budget: Budget | None = None
    observer: RunObserver | None = None
    context: RunContext | None = None

    def settings(self, config: TeaCacheConfig, context: RunContext) -> RunSettings:
        """The settings of the run."""
        self.context = context
        if self.plan is not None:
            return planned_settings(config, context.profile, self.plan)
        if self.budget is not None:
            return budgeted_settings(config, context.profile, self.budget)
        if self.observer is not None:
            return recording_settings(config, context.profile, context.forecast_only)
        return settings_from_config(config, context.profile, context.sampler, context.forecast_only)
