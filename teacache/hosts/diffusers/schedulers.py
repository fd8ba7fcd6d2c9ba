"""What is known of diffusers' schedulers, and the noise levels of a denoising loop."""

from __future__ import annotations

import inspect
from itertools import groupby
from typing import Any, Protocol

import torch

from ...engine.strategy import SamplerTraits
from .reads import TensorReads

EULER = ("FlowMatchEulerDiscreteScheduler",)
"""A step is x + (next sigma - sigma) * the transformer's output."""
DETERMINISTIC = (
    "FlowMatchHeunDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "DDIMScheduler",
    "CogVideoXDDIMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "PNDMScheduler",
)
"""Deterministic unless their settings add noise."""
OWN_LOOP = SamplerTraits(
    "of a loop of the user's own", forecast=False, foreign=True, visits_every_level=True
)


def sampler_traits(scheduler: Any) -> SamplerTraits:
    """The traits of a scheduler; one that is not in the tables is not extrapolated.

    It is known by the `step` of its class: a subclass may choose other noise levels. A `step` of
    another package may do anything.
    """
    kind = type(scheduler)
    step = inspect.getattr_static(kind, "step", None)
    if not inspect.isfunction(step) or not step.__module__.startswith("diffusers."):
        return SamplerTraits(kind.__name__, forecast=False, foreign=True, visits_every_level=True)
    owner = step.__qualname__.split(".")[0]
    euler = owner in EULER
    forecast = (euler or owner in DETERMINISTIC) and not _adds_noise(scheduler.config)
    return SamplerTraits(
        kind.__name__,
        forecast=forecast,
        euler=euler and forecast,
        one_eval_per_step=euler and forecast,
        visits_every_level=True,
        adds_noise=not forecast,
    )


def _adds_noise(config: Any) -> bool:
    algorithm = str(config.get("algorithm_type", ""))
    return bool(config.get("stochastic_sampling", False)) or algorithm.startswith("sde")


class LoopSigmas(Protocol):
    """The noise levels of one denoising loop.

    sigmas: one more than the loop has steps.
    evaluations: how many the loop makes.
    full_range: whether the loop goes from pure noise to none.
    """

    sigmas: list[float]
    evaluations: int
    full_range: bool

    def at(
        self, evaluation: int, timestep: torch.Tensor, reads: TensorReads
    ) -> tuple[float, int | None]:
        """The noise level of an evaluation.

        Args:
            evaluation: index of the evaluation in the loop, from 0.
            timestep: what the transformer is given.
            reads: reads it, where it must be.

        Returns:
            The level, and the step where the level alone does not tell it.
        """


class SchedulerSigmas:
    """The noise levels that a pipeline's scheduler has been set to.

    Args:
        scheduler: after `set_timesteps`.
        evaluations: how many of its timesteps the loop goes through, at the end: image-to-image
            leaves out the first ones.
    """

    def __init__(self, scheduler: Any, evaluations: int) -> None:
        timesteps = _numbers(scheduler.timesteps)
        count = len(timesteps)
        self.full_range = evaluations >= count
        levels = _own_sigmas(scheduler, count) or [
            t / scheduler.config.num_train_timesteps for t in [*timesteps, 0.0]
        ]
        self._per_evaluation = levels[max(0, count - evaluations) : count]
        self.evaluations = len(self._per_evaluation)
        self.sigmas = [level for level, _ in groupby(self._per_evaluation)] + [levels[count]]

    def at(
        self, evaluation: int, timestep: torch.Tensor, reads: TensorReads
    ) -> tuple[float, int | None]:
        return self._per_evaluation[min(evaluation, len(self._per_evaluation) - 1)], None


def _own_sigmas(scheduler: Any, count: int) -> list[float]:
    """The scheduler's own noise levels with the final one, empty where it has none."""
    if not hasattr(scheduler, "sigmas") or len(scheduler.sigmas) <= count:
        return []
    return _numbers(scheduler.sigmas[: count + 1])


def _numbers(values: Any) -> list[float]:
    """The numbers of a list or array; those of a tensor are read in one go."""
    return [float(value) for value in (values if isinstance(values, list) else values.tolist())]


def pipeline_sigmas(pipe: Any, total: int | None) -> SchedulerSigmas:
    """Noise levels of the loop that `pipe` is about to run. total: steps on its progress bar."""
    scheduler = pipe.scheduler
    evaluations = len(scheduler.timesteps)
    if hasattr(pipe, "_num_timesteps"):
        evaluations = min(evaluations, pipe._num_timesteps)
    elif total is not None and scheduler.order == 1:
        evaluations = min(evaluations, total)
    return SchedulerSigmas(scheduler, evaluations)


class ObservedSigmas:
    """Noise levels of a loop of the user's own: `steps` evaluations at the timesteps it passes."""

    full_range = True

    def __init__(self, steps: int) -> None:
        self.sigmas = [0.0] * (steps + 1)
        self.evaluations = steps
        self._seen: list[float] = []

    def at(
        self, evaluation: int, timestep: torch.Tensor, reads: TensorReads
    ) -> tuple[float, int | None]:
        level = reads.number(timestep)
        self._seen.append(level)
        self.sigmas[evaluation] = level
        return level, evaluation

    @property
    def complete(self) -> bool:
        return len(self._seen) >= self.evaluations

    def starts_over_at(self, timestep: torch.Tensor, reads: TensorReads) -> bool:
        """Whether an evaluation at `timestep` belongs to another loop.

        That is so after the last step, at the first timestep again, and where the timesteps turn.
        """
        if self.complete:
            return True
        if not self._seen:
            return False
        level, first = reads.number(timestep), self._seen[0]
        turns = len(self._seen) > 1 and (level - self._seen[-1]) * (self._seen[1] - first) < 0
        return level == first or turns
