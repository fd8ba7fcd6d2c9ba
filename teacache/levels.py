"""Which step an evaluation of an unknown sampler belongs to, told by the levels it evaluates at."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import UserError

NEAR = 1e-3
"""Relative difference up to which a level is that of the schedule: some samplers begin a little
below the first one, where the log-SNR is finite."""


class UnknownLevels(UserError):
    """The evaluations do not follow the schedule."""


class ObservedLevels:
    """Follows the evaluations of a sampler of which nothing is known but its schedule.

    A sampler that goes through the schedule evaluates at each of its levels, in order; further
    evaluations lie at or between the last level and the next one, or between the one before and
    the last: methods of several stages may evaluate at a step's end, and within it again.

    Args:
        sigmas: noise levels of the schedule, one more than it has steps.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        self._sigmas, self._steps = sigmas, len(sigmas) - 1
        self._evaluations = 0
        self._visited = 0
        """Levels of the schedule that were evaluated at."""

    @property
    def one_per_level(self) -> bool:
        """Whether each evaluation so far was at the next level of the schedule."""
        return self._evaluations == self._visited

    def advance(self, sigma: float) -> int:
        """An evaluation at `sigma`, the level that the sampler is at, begins.

        Returns:
            Its step.

        Raises:
            UnknownLevels: the level is not one that the schedule leads to.
        """
        index, self._evaluations = self._visited, self._evaluations + 1
        if index < self._steps and self._is_at(sigma, index):
            self._visited += 1
            return index
        if index and self._is_around(sigma, index - 1):
            return index - 1
        raise UnknownLevels(
            f"evaluation {self._evaluations} is at noise level {sigma:.4g}, to which the schedule "
            "does not lead"
        )

    def _is_at(self, sigma: float, index: int) -> bool:
        level = self._sigmas[index]
        return abs(sigma - level) <= NEAR * abs(level)

    def _is_around(self, sigma: float, step: int) -> bool:
        """Whether a level is within a step, or the one before."""
        levels = self._sigmas[max(step - 1, 0) : step + 2]
        return min(levels) * (1 - NEAR) <= sigma <= max(levels) * (1 + NEAR)
