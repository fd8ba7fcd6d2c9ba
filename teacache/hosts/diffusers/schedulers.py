"""What is known of diffusers' schedulers, and the noise levels of a denoising loop."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import Any, Protocol

import torch

from ...engine.strategy import SamplerTraits
from ..common import configured_to_add_noise
from .conversions import DENOISED, StepValues, prediction_kind, step_owner
from .reads import TensorReads

EULER = ("FlowMatchEulerDiscreteScheduler", "EulerDiscreteScheduler")
"""A step is x + (next sigma - sigma) * the model's output, unless that is another than noise or
flow."""
DETERMINISTIC = (
    "FlowMatchHeunDiscreteScheduler",
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
    "EDMEulerScheduler",
)
"""Deterministic unless their settings add noise."""
NOISY = (
    "DDPMScheduler",
    "DDPMWuerstchenScheduler",
    "LCMScheduler",
    "TCDScheduler",
    "UnCLIPScheduler",
    "CogVideoXDPMScheduler",
    "SASolverScheduler",
    "EulerAncestralDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "LTXEulerAncestralRFScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverSDEScheduler",
    "CosineDPMSolverMultistepScheduler",
    "SCMScheduler",
)
"""They add noise after a step. Those in `conversions.DENOISED` are forecast."""
EULER_KINDS = ("epsilon", "flow_prediction")
OWN_LOOP = SamplerTraits(
    "of a loop of the user's own", forecast=False, foreign=True, visits_every_level=True
)


def sampler_traits(scheduler: Any) -> SamplerTraits:
    """The traits of a scheduler; one that is not in the tables is not extrapolated.

    It is known by the `step` of its class: a subclass may choose other noise levels. A `step` of
    another package may do anything.
    """
    name = type(scheduler).__name__
    owner = step_owner(scheduler)
    if owner not in EULER + DETERMINISTIC + NOISY:
        return SamplerTraits(name, forecast=False, foreign=True, visits_every_level=True)
    noisy = owner in NOISY or configured_to_add_noise(scheduler.config)
    euler = owner in EULER and not noisy and prediction_kind(scheduler) in EULER_KINDS
    return SamplerTraits(
        name,
        forecast=not noisy or owner in DENOISED,
        euler=euler,
        one_eval_per_step=euler,
        visits_every_level=True,
        adds_noise=noisy,
    )


def with_noise(traits: SamplerTraits) -> SamplerTraits:
    """`traits` of a scheduler that is told to add noise in its steps."""
    return replace(traits, euler=False, adds_noise=True)


class LoopSigmas(Protocol):
    """The noise levels of one denoising loop.

    sigmas: one more than the loop has steps.
    evaluations: how many the loop makes.
    full_range: whether the loop goes from pure noise to none.
    values: what of each evaluation is continued; None for the model's output.
    """

    sigmas: list[float]
    evaluations: int
    full_range: bool
    values: StepValues | None

    def follow(self, evaluation: int, timestep: Any, reads: TensorReads) -> bool:
        """An evaluation begins. `timestep`: as the model is given it, `at` is asked later.

        Returns:
            Whether that is the evaluation's place in the schedule, as far as it can be seen.
        """

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
        evaluations: how many of its timesteps the loop goes through. Image-to-image leaves out the
            first ones, a base model before its refiner the last ones: which, is seen at the first
            evaluation.
    """

    def __init__(self, scheduler: Any, evaluations: int) -> None:
        self._scheduler, self._given = scheduler, scheduler.timesteps
        self._timesteps = _numbers(scheduler.timesteps)
        self._levels = _levels(scheduler, self._timesteps)
        self.evaluations = min(evaluations, len(self._levels) - 1)
        self._left_out = len(self._levels) - 1 - self.evaluations
        self.full_range = not self._left_out
        self._take_from(self._left_out)

    def _take_from(self, first: int) -> None:
        self._first, end = first, first + self.evaluations
        self._per_evaluation = self._levels[first:end]
        self.sigmas = [level for level, _ in groupby(self._per_evaluation)] + [self._levels[end]]
        self.values: StepValues | None = StepValues(
            self._scheduler, self._timesteps[first:end], self._per_evaluation
        )

    def follow(self, evaluation: int, timestep: Any, reads: TensorReads) -> bool:
        index = _index_in(self._given, timestep)
        if evaluation or not self._left_out:
            return index is None or index == self._first + evaluation
        if index is None:
            value = reads.number(torch.as_tensor(timestep).flatten()[0])
            index = self._timesteps.index(value) if value in self._timesteps else self._first
        if index > self._left_out:
            return False
        self._take_from(index)
        return True

    def at(
        self, evaluation: int, timestep: torch.Tensor, reads: TensorReads
    ) -> tuple[float, int | None]:
        return self._per_evaluation[min(evaluation, len(self._per_evaluation) - 1)], None


def _index_in(timesteps: Any, timestep: Any) -> int | None:
    """The index of a timestep that is a view of the scheduler's, None for one with its own memory.

    Nothing is read from the device.
    """
    for tensor in (timesteps, timestep):
        if not isinstance(tensor, torch.Tensor) or tensor.dtype != timesteps.dtype:
            return None
    if timesteps.untyped_storage().data_ptr() != timestep.untyped_storage().data_ptr():
        return None
    distance: int = timestep.storage_offset() - timesteps.storage_offset()
    stride: int = timesteps.stride(0)
    return distance // stride


def _levels(scheduler: Any, timesteps: list[float]) -> list[float]:
    """The scheduler's noise levels, one more than it has evaluations."""
    if step_owner(scheduler) == "DDPMWuerstchenScheduler":
        return timesteps
    own = _own_sigmas(scheduler, len(timesteps))
    return own or [t / scheduler.config.num_train_timesteps for t in [*timesteps, 0.0]]


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
    values: StepValues | None = None

    def __init__(self, steps: int) -> None:
        self.sigmas = [0.0] * (steps + 1)
        self.evaluations = steps
        self._seen: list[float] = []

    def follow(self, evaluation: int, timestep: Any, reads: TensorReads) -> bool:
        return True

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
