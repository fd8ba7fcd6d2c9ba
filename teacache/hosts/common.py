"""What every host does: recognise a model, collect what is known of a run, prepare its blocks."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..calibration.learn import Learning
from ..calibration.override import RunOverride
from ..config import LEARN, TeaCacheConfig
from ..engine.blocks import BlockStack
from ..engine.presets import RunContext, describe_settings, resolve_settings
from ..engine.regions import LatentLayout
from ..engine.run import Run, RunListener, RunObserver
from ..engine.strategy import SamplerTraits, requested_strategy
from ..families.generic import forecast_only_family
from ..families.registry import find_family, find_uncacheable, known_profiles
from ..families.spec import Family, RunScope, unwrap_compiled
from ..families.streams import FamilyMismatch, reading_model
from ..profiles.calibrated import Calibration
from ..profiles.conditions import Conditions
from ..profiles.profile import Profile, get_profile
from ..profiles.store import ProfileStore, named_calibration
from ..report import RunReport

KEPT_REPORTS = 8
SHORTEST_STEPS = 2
"""Runs of so many steps have a first and a last step alone: nothing can be skipped."""
NOISE_OPTIONS = ("eta", "s_churn")
"""Options that make a deterministic sampler add noise, unless they are 0."""
SEVERAL_VALUES = "returns several values, each for a scheduler of its own: residuals are forecast."
log = logging.getLogger("teacache")


@dataclass(frozen=True)
class Recognition:
    """What is known of a model before it samples.

    Args:
        profile: the family's default one, or the shipped one that the settings name.
        calibration: the user's own profile, where the settings name one.
    """

    family: Family
    profile: Profile
    calibration: Calibration | None = None


def noise_option(options: Mapping[str, Any]) -> str:
    """The option that makes a sampler add noise, unless it is absent or the number 0; else empty.

    Args:
        options: of a sampler or of a scheduler's step, by name.
    """
    for name in NOISE_OPTIONS:
        amount = options.get(name)
        if amount is not None and not (isinstance(amount, (int, float)) and amount == 0):
            return name
    return ""


def configured_to_add_noise(config: Mapping[str, Any]) -> bool:
    """Whether the configuration of a scheduler as diffusers has them makes it add noise."""
    algorithm = str(config.get("algorithm_type", ""))
    return bool(config.get("stochastic_sampling", False)) or algorithm.startswith("sde")


def recognise(
    transformer: nn.Module,
    config: TeaCacheConfig,
    store: ProfileStore,
    family: Family | None = None,
) -> Recognition | None:
    """The family and profile of a model; None for a model that is left as it is.

    Args:
        transformer: the model.
        config: may name a profile.
        store: the user's own profiles.
        family: the model's, where the host knows it; else it is looked up.

    Raises:
        ConfigError: the profile that `config` names is unknown or made for another family.
    """
    family = find_family(transformer) if family is None else family
    if family is None:
        return None
    try:
        with reading_model():
            name = family.profile_of(unwrap_compiled(transformer))
    except FamilyMismatch as mismatch:
        log.warning("TeaCache: %s: can only be forecast: %s", family.name, mismatch)
        family = forecast_only_family(family.name)
        name = family.profile_of(transformer)
    profiles, calibration = known_profiles(), None
    if config.profile in profiles:
        name = config.profile
    elif config.profile != "auto":
        calibration = named_calibration(config.profile, family.id, store)
    return Recognition(family, get_profile(name, family.id, profiles), calibration)


def why_unsupported(transformer: nn.Module) -> str:
    """Why a model is left as it is, as the first half of a sentence."""
    known = find_uncacheable(transformer)
    assert known is not None
    return f"{known.name}: {known.reason}"


class CacheHandle:
    """The cache on a model: its settings, what was recognised, and the last finished runs.

    Args:
        config: the user's settings.
        recognition: of the model.
        host: the host's name, for reports.
        listener: receives the events of every run.
        override: what every run does instead of its settings, during a calibration.
    """

    def __init__(
        self,
        config: TeaCacheConfig,
        recognition: Recognition,
        host: str,
        listener: RunListener | None = None,
        override: RunOverride | None = None,
    ) -> None:
        self.config = config
        self.family = recognition.family
        self.profile = recognition.profile
        self.calibration = recognition.calibration
        self.reports: deque[RunReport] = deque(maxlen=KEPT_REPORTS)
        """Reports of finished runs, newest last."""
        self._logged: set[str] = set()
        """What has been said of runs too short to skip anything, and of the model."""
        self._host = host
        self._listener = listener
        self._override = override
        self._learning: Learning | None = None
        """What the run at hand is recorded for, with `preset` = `learn`."""

    def describe(self) -> str:
        """What was recognised and what will be done, in one line."""
        return describe_settings(self.config, self.family, self.profile, self.calibration)

    def new_run(
        self,
        config: TeaCacheConfig,
        store: ProfileStore,
        transformer: nn.Module,
        scope_of: Callable[[], RunScope | None],
        sampler: SamplerTraits,
        conditions_of: Callable[[bool], Conditions],
        layout: LatentLayout | None = None,
    ) -> Run:
        """A run with the settings that follow from everything known now.

        Args:
            config: the user's settings, adapted to the machine.
            store: the user's own profiles.
            transformer: the model.
            scope_of: gives the part of the denoising that the run covers, None where it is not
                known; called only for families whose profile depends on it.
            sampler: its traits.
            conditions_of: gives the run's conditions; called with whether the weights must be
                identified, which takes time.
            layout: how the latent is compared; None where nothing is known of it.
        """
        profile = self.profile
        choose = self.family.profile_for_run
        if self.config.profile == "auto" and choose is not None:
            scope = scope_of()
            if scope is not None:
                name = choose(unwrap_compiled(transformer), scope)
                profile = get_profile(name, self.family.id, known_profiles())
        named, calibration = self.calibration is not None, self.calibration
        identify = named or self._override is not None or bool(store.names())
        conditions = conditions_of(identify or config.preset == LEARN)
        if self.config.profile == "auto":
            calibration = store.find(conditions)
        context = RunContext(
            profile, conditions, sampler, calibration, named, self.family.forecast_only
        )
        override = self._override
        self._learning = None
        if config.preset == LEARN and override is None and sampler.plannable:
            self._learning = Learning(context, store)
        settings = (
            resolve_settings(config, context)
            if override is None
            else override.settings(config, context)
        )
        if self.family.returns_several and settings.strategy.caches_prediction:
            strategy = replace(settings.strategy, cached="residual")
            notes = (*settings.notes, f"{self.family.name} {SEVERAL_VALUES}")
            settings = replace(settings, strategy=strategy, notes=notes)
        return Run(
            settings,
            self.family,
            sampler,
            conditions.sigmas,
            self._host,
            self._listener,
            self._observer,
            layout,
        )

    @property
    def _observer(self) -> RunObserver | None:
        """Who is shown what the run computes."""
        if self._learning is not None:
            return self._learning.recorder
        return None if self._override is None else self._override.observer

    def off_report(
        self,
        sigmas: list[float],
        outcome: str,
        threshold: float = 0.0,
        warnings: Sequence[str] = (),
    ) -> RunReport:
        """The report of a run that the cache left alone, since its threshold is 0.

        Args:
            sigmas: the run's noise levels; empty where they are not known.
            outcome: as in `Run.finish`.
            threshold: above 0 where the run was left alone for another reason.
            warnings: why.
        """
        report = RunReport(
            host=self._host,
            family=self.family.id,
            family_name=self.family.name,
            profile="",
            calibrated=False,
            method=requested_strategy(self.config).name,
            cached="",
            indicator="",
            predictor="",
            sampler="",
            threshold=threshold,
            steps=max(len(sigmas) - 1, 0),
            sigmas=sigmas,
            outcome=outcome,
            warnings=list(warnings),
        )
        if self._listener is not None:
            self._listener("end", {"report": report.to_json()})
        return report

    def keep(self, report: RunReport) -> None:
        """Keep the report of a finished run, and log it; save what was learned from it."""
        self.reports.append(report)
        learning, self._learning = self._learning, None
        if learning is not None and report.outcome == "done":
            report.warn(learning.finish())
            log.info("TeaCache: %s", report.warnings[-1])
        if report.steps > SHORTEST_STEPS or report.threshold == 0:
            log.info("TeaCache: %s", report.summary)
            if report.advice:
                log.info("TeaCache: %s", report.advice)
            return
        unit = "step" if report.steps == 1 else "steps"
        self.log_once(
            logging.INFO,
            f"{report.family_name}: runs of {report.steps} {unit}, in which nothing can be skipped",
        )
        log.debug("TeaCache: %s", report.summary)

    def log_once(self, level: int, sentence: str) -> None:
        """Log `sentence`; at debug level if it has been logged for this handle before."""
        log.log(logging.DEBUG if sentence in self._logged else level, "TeaCache: %s", sentence)
        self._logged.add(sentence)


def prepare_stack(
    run: Run,
    transformer: nn.Module,
    stack: BlockStack | None,
    embed: Callable[[list[float]], torch.Tensor],
    ahead: bool,
    allocating: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> BlockStack | None:
    """The block stack of `transformer`, ready for a call.

    Args:
        stack: the one that an earlier call of this run has made.
        embed, ahead: as in `Run.prepare_timestep_changes`.
        allocating: as in `BlockStack`.

    Returns:
        None where the model runs without the cache.
    """
    if run.gave_up:
        return None
    try:
        if stack is None:
            with reading_model():
                stack = BlockStack(
                    transformer,
                    run.family.block_lists,
                    run.family.side_block_lists,
                    allocating=allocating,
                )
        run.prepare_timestep_changes(embed, ahead)
    except FamilyMismatch as mismatch:
        run.give_up(mismatch)
        return None
    return stack


def embed_timesteps(run: Run, transformer: nn.Module, timesteps: torch.Tensor) -> torch.Tensor:
    """The embeddings [n, width] of `timesteps` [n] that the run's profile reads."""
    family = run.family
    projected = run.profile_indicator == "timestep_projection"
    embed = family.project_timesteps if projected else family.embed_timesteps
    assert embed is not None
    with reading_model():
        return embed(transformer, timesteps)
