"""Whether an evaluation of the model is computed or skipped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..report import Reason

UNSURE = 1000.0
"""A distance above every allowed threshold: where nothing is known, the step is computed."""


@dataclass(frozen=True)
class AccumulatedDistance:
    """TeaCache's rule (arXiv 2411.19108, eq. 6): skip while the accumulated distance stays below
    the threshold; the first and last step of the run are always computed.

    threshold: above 0. steps: sampler steps of this run. start, end: share of the steps, 0 to 1.
    max_skip: most evaluations skipped in a row, 0 for no limit. warmup: steps at the start that
    are always computed.
    """

    threshold: float
    steps: int
    start: float = 0.0
    end: float = 1.0
    max_skip: int = 0
    warmup: int = 0

    def settled(self, step: int) -> Reason | None:
        """Why `step` is computed whatever its distance, or None if the distance decides."""
        if step <= 0:
            return Reason.FIRST
        if step >= self.steps - 1:
            return Reason.LAST
        if step < self.warmup:
            return Reason.WARMUP
        if step < self.start * self.steps:
            return Reason.BEFORE_RANGE
        if step >= self.end * self.steps:
            return Reason.AFTER_RANGE
        return None

    def keeps(self, step: int) -> bool:
        """Whether what `step` computes can stand in for a later one."""
        return step + 1 < min(self.steps - 1, self.end * self.steps)

    def judge(self, accumulated: float, skipped_in_a_row: int) -> Reason:
        """UNDER_THRESHOLD (skip), OVER_THRESHOLD or CAPPED (compute)."""
        if not accumulated < self.threshold:
            return Reason.OVER_THRESHOLD
        if self.max_skip and skipped_in_a_row >= self.max_skip:
            return Reason.CAPPED
        return Reason.UNDER_THRESHOLD


@dataclass(frozen=True)
class PlannedSteps:
    """A plan made before the run: `computed` steps are computed, all others skipped.

    Nothing is measured. The first and the last step are computed in any case.
    """

    computed: frozenset[int]
    steps: int

    def settled(self, step: int) -> Reason:
        """Why `step` is computed or skipped."""
        if step <= 0:
            return Reason.FIRST
        if step >= self.steps - 1:
            return Reason.LAST
        return Reason.PLANNED if step in self.computed else Reason.PLANNED_SKIP

    def keeps(self, step: int) -> bool:
        """Whether what `step` computes can stand in for a later one."""
        return any(later not in self.computed for later in range(step + 1, self.steps - 1))

    def judge(self, accumulated: float, skipped_in_a_row: int) -> Reason:
        """Nothing is left to a distance: computed."""
        return Reason.OVER_THRESHOLD


class EveryStep:
    """Nothing is skipped, measured or kept."""

    def settled(self, step: int) -> Reason:
        """Why `step` is computed."""
        return Reason.UNCACHED

    def keeps(self, step: int) -> bool:
        """Whether what `step` computes can stand in for a later one."""
        return False

    def judge(self, accumulated: float, skipped_in_a_row: int) -> Reason:
        """Nothing is left to a distance: computed."""
        return Reason.OVER_THRESHOLD


Policy = AccumulatedDistance | PlannedSteps | EveryStep


def legs(sigmas: Sequence[float]) -> list[int]:
    """For each step over `sigmas`, how often the levels have turned before it."""
    turns, found, direction = 0, [], 0.0
    for before, after in pairwise(sigmas):
        length = after - before
        turns += direction * length < 0
        direction = length or direction
        found.append(turns)
    return found


def locate_step(sigma: float, sigmas: Sequence[float], current: int) -> int:
    """The sampler step that an evaluation at noise level `sigma` belongs to.

    sigmas: the run's levels, one more than it has steps. current: the step of the evaluation
    before (0 at the start). An exact level is looked for from `current` on, then everywhere, so
    that schedules which rise again and samplers which evaluate twice keep their place; a level
    between two of the schedule's belongs to the step that spans it.
    """
    last: int = len(sigmas) - 2
    order: list[int] = [*range(current, last + 1), *range(current)]
    for step in order:
        if math.isclose(sigma, sigmas[step], rel_tol=1e-5, abs_tol=1e-6):
            return step
    for step in order:
        low, high = sorted((sigmas[step], sigmas[step + 1]))
        if low <= sigma <= high:
            return step
    return min(current, max(last, 0))
