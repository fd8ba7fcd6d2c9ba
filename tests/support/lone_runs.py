"""Runs without a host, over a schedule of five steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from teacache.config import TeaCacheConfig
from teacache.engine.run import Run, RunObserver
from teacache.engine.strategy import RunSettings, SamplerTraits, settings_from_config
from teacache.families.comfyui.image import SD3
from teacache.profiles.profile import Profile, load_profiles

CPU = torch.device("cpu")
SIGMAS = [1.0, 0.8, 0.6, 0.4, 0.2, 0.0]
EULER = SamplerTraits("euler", euler=True, one_eval_per_step=True)


def profile(**changes: Any) -> Profile:
    return replace(load_profiles()["sd3-uncalibrated"], **changes)


def run_of(
    sigmas: Sequence[float] = SIGMAS,
    sampler: SamplerTraits = EULER,
    settings: RunSettings | None = None,
    listener: Callable[[str, dict[str, Any]], None] | None = None,
    observer: RunObserver | None = None,
    **config: Any,
) -> Run:
    chosen = settings or settings_from_config(TeaCacheConfig(**config), profile(), sampler)
    return Run(chosen, SD3, sampler, sigmas, "test", listener, observer)


def timestep_settings(**changes: Any) -> RunSettings:
    """The faithful mode with a profile that reads the timestep alone."""
    read = profile(indicator="timestep", coefficients=(2.0, 0.0), **changes)
    return settings_from_config(TeaCacheConfig(rel_l1_thresh=0.5, mode="faithful"), read, EULER)


class OtherRank:
    """Another process that computes a part of the model.

    Args:
        distance: what it read; -1 for nothing.
        computing, failing: whether it must compute; whether what is asked of any holds for it.
    """

    def __init__(self, distance: float = -1.0, computing: bool = False, failing: bool = False):
        self.distance, self.computing, self.failing = distance, computing, failing
        self.asked: list[list[float]] = []
        self.conditions: list[bool] = []

    def largest(self, values: Sequence[float]) -> list[float]:
        self.asked.append(list(values))
        return [max(*pair) for pair in zip(values, (self.distance, self.computing), strict=True)]

    def any(self, condition: bool) -> bool:
        self.conditions.append(condition)
        return condition or self.failing


def evaluating(step: int = 2, **config: Any) -> Run:
    """A run within the evaluation of `step`, of which nothing fixes the decision."""
    run = run_of(rel_l1_thresh=0.5, **config)
    run.begin_evaluation(SIGMAS[step], CPU)
    return run


def rate_run() -> Run:
    return run_of(rel_l1_thresh=0.5, predictor="reuse", indicator="rate", cached="residual")
