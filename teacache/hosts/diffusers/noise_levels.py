"""Where a denoising loop of diffusers stands: the noise level and step of each evaluation."""

from __future__ import annotations

from itertools import groupby
from typing import Any, Protocol

import torch


class Levels(Protocol):
    """The noise levels of one loop.

    sigmas: one more than the loop has steps. whole: whether the loop goes from pure noise to none.
    """

    sigmas: list[float]
    whole: bool

    def at(self, evaluation: int, timestep: torch.Tensor) -> tuple[float, int | None]:
        """Level of an evaluation, counted from 0, and its step where the levels do not tell it.

        timestep: what the transformer is given.
        """


class SchedulerLevels:
    """The levels that a pipeline's scheduler has been set to.

    evaluations: how many of the scheduler's timesteps the loop goes through, at its end:
    image-to-image leaves out the first ones.
    """

    def __init__(self, scheduler: Any, evaluations: int) -> None:
        timesteps = [float(t) for t in scheduler.timesteps]
        count = len(timesteps)
        self.whole = evaluations >= count
        levels = _sigmas(scheduler, count) or [
            t / scheduler.config.num_train_timesteps for t in [*timesteps, 0.0]
        ]
        self._levels = levels[max(0, count - evaluations) : count]
        """One for each evaluation; samplers with two of them at a level repeat it."""
        self.sigmas = [level for level, _ in groupby(self._levels)] + [levels[count]]

    def at(self, evaluation: int, timestep: torch.Tensor) -> tuple[float, int | None]:
        return self._levels[min(evaluation, len(self._levels) - 1)], None


def _sigmas(scheduler: Any, count: int) -> list[float]:
    """The scheduler's own noise levels, the last one included, if it has them."""
    if not hasattr(scheduler, "sigmas") or len(scheduler.sigmas) <= count:
        return []
    return [float(sigma) for sigma in scheduler.sigmas[: count + 1]]


def pipeline_levels(pipe: Any, total: int | None) -> SchedulerLevels:
    """Levels of the loop that `pipe` is about to run. total: steps on its progress bar."""
    scheduler = pipe.scheduler
    evaluations = len(scheduler.timesteps)
    if hasattr(pipe, "_num_timesteps"):
        evaluations = min(evaluations, pipe._num_timesteps)
    elif total is not None and scheduler.order == 1:
        evaluations = min(evaluations, total)
    return SchedulerLevels(scheduler, evaluations)


class CountedLevels:
    """Levels of a loop of the user's own: `steps` evaluations at the timesteps that are seen."""

    whole = True

    def __init__(self, steps: int) -> None:
        self.sigmas = [0.0] * (steps + 1)
        self._steps = steps
        self._seen: list[float] = []

    def at(self, evaluation: int, timestep: torch.Tensor) -> tuple[float, int | None]:
        level = float(timestep)
        self._seen.append(level)
        self.sigmas[evaluation] = level
        return level, evaluation

    @property
    def complete(self) -> bool:
        return len(self._seen) >= self._steps

    def over(self, timestep: torch.Tensor) -> bool:
        """Whether an evaluation at `timestep` belongs to another loop.

        That is so after the last step, at the first timestep again, and where the timesteps turn.
        """
        if self.complete:
            return True
        if not self._seen:
            return False
        level, first = float(timestep), self._seen[0]
        turns = len(self._seen) > 1 and (level - self._seen[-1]) * (self._seen[1] - first) < 0
        return level == first or turns
