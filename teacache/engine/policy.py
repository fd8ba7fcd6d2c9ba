"""Policies: whether a step is computed or skipped, by its index and its accumulated distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..report import Reason
from ..schedule import Schedule
from .strategy import RunSettings, SamplerTraits


class Policy(Protocol):
    """Decides over steps."""

    def fixed_reason(self, step: int) -> Reason | None:
        """Why `step` is computed or skipped whatever its distance; None if the distance decides."""

    def compare(self, accumulated: float, skipped_in_a_row: int) -> Reason:
        """The outcome where the distance decides.

        Args:
            accumulated: distance since the last computed step, this one included.
            skipped_in_a_row: evaluations skipped since the last computed one.
        """

    def cache_is_reusable(self, step: int) -> bool:
        """Whether a later step can be skipped, so that what `step` computes must be cached."""


@dataclass(frozen=True)
class AccumulatedDistance:
    """TeaCache's rule (arXiv 2411.19108, eq. 6): skip while the accumulated distance stays below
    the threshold. The first and last step of a run are always computed, and with them the first
    one after each turn of the noise level.

    Args:
        threshold: above 0.
        steps: number of steps of the run.
        start, end: share of the steps, 0 to 1, within which steps may be skipped.
        max_skip: most evaluations skipped in a row, 0 for no limit.
        warmup: number of steps at the start that are always computed.
        first_steps: steps at which the noise level begins or turns.
        last_step: the last step that moves the sample; None for the schedule's last one; `steps`
            where none is computed for being the last.
    """

    threshold: float
    steps: int
    start: float = 0.0
    end: float = 1.0
    max_skip: int = 0
    warmup: int = 0
    first_steps: frozenset[int] = frozenset({0})
    last_step: int | None = None

    @property
    def _last(self) -> int:
        return self.steps - 1 if self.last_step is None else self.last_step

    def fixed_reason(self, step: int) -> Reason | None:
        if step <= 0 or step in self.first_steps:
            return Reason.FIRST
        if step >= self._last:
            return Reason.LAST
        if step < self.warmup:
            return Reason.WARMUP
        if step < self.start * self.steps:
            return Reason.BEFORE_RANGE
        if step >= self.end * self.steps:
            return Reason.AFTER_RANGE
        return None

    def compare(self, accumulated: float, skipped_in_a_row: int) -> Reason:
        if not accumulated < self.threshold:  # also true for NaN
            return Reason.OVER_THRESHOLD
        if self.max_skip and skipped_in_a_row >= self.max_skip:
            return Reason.CAPPED
        return Reason.UNDER_THRESHOLD

    def cache_is_reusable(self, step: int) -> bool:
        return step + 1 < min(self._last, self.end * self.steps)


@dataclass(frozen=True)
class PlannedSteps:
    """A schedule of computed steps made before the run; nothing is measured.

    Args:
        computed: indices of the computed steps. The first and last step always are.
        first_steps, last_step: as in `AccumulatedDistance`.
    """

    computed: frozenset[int]
    first_steps: frozenset[int]
    last_step: int

    def fixed_reason(self, step: int) -> Reason:
        if step <= 0 or step in self.first_steps:
            return Reason.FIRST
        if step >= self.last_step:
            return Reason.LAST
        return Reason.PLANNED if step in self.computed else Reason.PLANNED_SKIP

    def compare(self, accumulated: float, skipped_in_a_row: int) -> Reason:
        return Reason.OVER_THRESHOLD

    def cache_is_reusable(self, step: int) -> bool:
        return any(later not in self.computed for later in range(step + 1, self.last_step))


class EveryStep:
    """Every step is computed; nothing is measured or cached."""

    def fixed_reason(self, step: int) -> Reason:
        return Reason.UNCACHED

    def compare(self, accumulated: float, skipped_in_a_row: int) -> Reason:
        return Reason.OVER_THRESHOLD

    def cache_is_reusable(self, step: int) -> bool:
        return False


def policy_of(settings: RunSettings, sampler: SamplerTraits, schedule: Schedule) -> Policy:
    """The policy of one run.

    A forecast that leaves noise for another run does not compute its last step for being the last:
    the steps of the other one still follow. This is known from the noise levels alone, so that a
    picture does not depend on which of the runs are made anew.
    """
    if settings.every_step:
        return EveryStep()
    last_step = schedule.steps - 1 if sampler.visits_every_level else schedule.last_step
    if settings.plan is not None:
        return PlannedSteps(frozenset(settings.plan), schedule.first_steps, last_step)
    if schedule.leaves_noise and settings.strategy.indicator == "rate":
        last_step = schedule.steps
    config = settings.config
    return AccumulatedDistance(
        threshold=settings.threshold,
        steps=schedule.steps,
        start=config.start_percent,
        end=config.end_percent,
        max_skip=config.max_skip,
        warmup=settings.profile.warmup_steps if settings.strategy.indicator == "profile" else 0,
        first_steps=schedule.first_steps,
        last_step=last_step,
    )
