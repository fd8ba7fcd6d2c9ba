"""The noise levels of a sampling run: steps, segments, step sizes, and the current position."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from .config import FORCE_COMPUTE
from .levels import ObservedLevels, UnknownLevels

MAX_RAISE = math.sqrt(2) * 1.001
"""How far above the level of its step a sampler that adds noise (`s_churn`) evaluates at most:
Karras et al., arXiv 2206.00364, algorithm 2; with a margin for rounding."""
CLEAN = 0.05
"""Noise share up to which a run that ends has given its result: schedules that end at the model's
lowest level (`final_sigmas_type="sigma_min"`) leave 0.03 at most."""
LOG_SNR_MARGIN = 1e-4
"""Noise shares closer than this to 0 or 1 are clipped before their log-SNR is taken."""


def same_sigma(one: float, other: float) -> bool:
    """Whether two noise levels are equal up to rounding."""
    return math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-6)


class Schedule:
    """The noise levels that a sampling run goes through.

    Args:
        sigmas: noise levels, one more than the run has steps.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        self.sigmas = list(sigmas)
        self.steps = len(self.sigmas) - 1
        self.segments = _segments(self.sigmas)
        """For each step, the number of turning points before it. Values are extrapolated only
        within one segment, where the noise level moves in one direction."""
        moving = [
            step
            for step, (before, after) in enumerate(pairwise(self.sigmas))
            if before > 0 and not same_sigma(before, after)
        ]
        self.last_step = moving[-1] if moving else max(self.steps - 1, 0)
        """The last step that moves the sample: schedules may be padded with equal levels or 0."""
        self.first_steps = frozenset(
            step
            for step, segment in enumerate(self.segments)
            if not step or segment != self.segments[step - 1]
        )
        """The first step of each segment."""
        self._above_one = max(self.sigmas) > 1
        self.axis = shares = [self.axis_of(sigma) for sigma in self.sigmas]
        """The levels as values are extrapolated over them."""
        self.leaves_noise = CLEAN < shares[-1] < shares[0]
        """Whether the run falls to a level at which another one has to go on, as the first of two
        experts, or a base model before its refiner, does."""
        self._mean_noise_step = _mean(abs(b - a) for a, b in pairwise(shares) if a != b)
        inner = [share for share in shares if LOG_SNR_MARGIN < share < 1 - LOG_SNR_MARGIN]
        self._mean_log_snr_step = _mean(
            abs(_log_snr(b) - _log_snr(a)) for a, b in pairwise(inner) if a != b
        )

    def relative_step_size(self, start: float, end: float) -> float:
        """Size of the step between two noise levels, in average steps of this schedule.

        The mean of two measures, each 1 for an average step: the change of the noise share, which
        is the distance that the sample moves, and the change of log((1 - s) / s). The second gives
        weight to the first steps, which decide on the whole image although they hardly move it,
        and to the last ones, whose errors no later step corrects.

        Args:
            start, end: noise levels. Above 1, where no flow model is, s counts as s / (1 + s).

        Returns:
            The relative size, or `FORCE_COMPUTE` where the schedule does not move at all.
        """
        if not self._mean_noise_step:
            return FORCE_COMPUTE
        start, end = self.axis_of(start), self.axis_of(end)
        noise = abs(end - start) / self._mean_noise_step
        if not self._mean_log_snr_step:
            return noise
        return (noise + abs(_log_snr(end) - _log_snr(start)) / self._mean_log_snr_step) / 2

    def step_at(self, sigma: float, current: int, raised: bool = False) -> int:
        """The step that an evaluation at noise level `sigma` belongs to.

        An exact level is searched for from `current` on, then everywhere, so that schedules that
        rise again and samplers that evaluate twice per step are followed. A level that is repeated
        up to the last step belongs to that one. A level between two of the schedule's belongs to
        the step that spans it.

        Args:
            sigma: noise level of the evaluation.
            current: step of the previous evaluation, 0 at the start.
            raised: whether the sampler may add noise before it evaluates. What may then belong to
                the last step does.
        """
        order: list[int] = [*range(current, self.steps), *range(current)]
        for step in order:
            if same_sigma(sigma, self.sigmas[step]):
                repeated = self.sigmas[step + 1 : self.last_step + 1]
                ends = repeated and all(same_sigma(sigma, level) for level in repeated)
                return self.last_step if ends else step
        end = self.sigmas[self.last_step]
        if raised and end < sigma <= MAX_RAISE * end:
            return self.last_step
        for step in order:
            low, high = sorted((self.sigmas[step], self.sigmas[step + 1]))
            if low <= sigma <= high:
                return step
        return current

    def axis_of(self, sigma: float) -> float:
        """The noise share of a level: `sigma` itself in flow models, sigma / (1 + sigma) where
        levels are above 1. Values are extrapolated over it: over levels that fall from 15 or 80 to
        0 by equal factors, what is learned from the first ones would tell nothing of the last."""
        return sigma / (1 + sigma) if self._above_one else sigma


class StepTracker:
    """The position of a run in its schedule, updated once per evaluation of the denoiser.

    Args:
        schedule: the run's noise levels.
        one_eval_per_step: whether the sampler evaluates once at each level, in order.
        raised: as in `Schedule.step_at`.
        observed: follows the evaluations of a sampler that is not known; None for the others.
    """

    def __init__(
        self,
        schedule: Schedule,
        one_eval_per_step: bool,
        raised: bool = False,
        observed: ObservedLevels | None = None,
    ) -> None:
        self.schedule = schedule
        self.evaluations = 0
        """Evaluations begun so far."""
        self.step = 0
        self.sigma = 0.0
        self._previous_sigma: float | None = None
        self._returns = 0
        """How often an evaluation has gone back to an earlier step."""
        self._one_eval_per_step = one_eval_per_step
        self._raised = raised
        self._observed = observed

    @property
    def expected_sigma(self) -> float | None:
        """Level of the next evaluation, None where the sampler does not tell it in advance."""
        told = self._one_eval_per_step and self._observed is None
        known = told and self.evaluations < self.schedule.steps
        return self.schedule.sigmas[self.evaluations] if known else None

    def advance(self, sigma: float, step: int | None = None) -> None:
        """An evaluation at `sigma` begins; `step` where the host knows it.

        Levels that a schedule repeats are told apart by counting evaluations.

        Raises:
            UnknownLevels: the sampler is not known, and does not follow the schedule.
        """
        unknown = None
        if self._observed is not None:
            try:
                step = self._observed.advance(sigma)
                self._one_eval_per_step = self._observed.one_per_level
            except UnknownLevels as error:
                unknown, self._observed, self._one_eval_per_step = error, None, False
        if step is None:
            expected = self.expected_sigma
            counted = expected is not None and same_sigma(sigma, expected)
            step = (
                self.evaluations
                if counted
                else self.schedule.step_at(sigma, self.step, self._raised)
            )
        self._previous_sigma = self.sigma if self.evaluations else None
        self._returns += step < self.step
        self.step, self.sigma = step, sigma
        self.evaluations += 1
        if unknown is not None:
            raise unknown

    @property
    def axis(self) -> float:
        """Where the current evaluation lies on the axis that values are extrapolated over."""
        return self.schedule.axis_of(self.sigma)

    @property
    def segment(self) -> int:
        """The segment of the schedule that the current step lies in; another one each time that the
        schedule is gone through again."""
        return self.schedule.segments[self.step] + self._returns * self.schedule.steps

    @property
    def step_size(self) -> float:
        """Signed size of the current step in sigma.

        Where the sampler is not known to go through the schedule, the size of the previous step;
        the schedule's own where the evaluation repeats a level.
        """
        following = self.schedule.sigmas[self.step + 1]
        if self._one_eval_per_step:
            return following - self.sigma
        if self._previous_sigma is None or same_sigma(self.sigma, self._previous_sigma):
            return following - self.schedule.sigmas[self.step]
        return self.sigma - self._previous_sigma

    @property
    def relative_step_size(self) -> float:
        """Size of the current step, in average steps of the run."""
        return self.schedule.relative_step_size(self.sigma, self.sigma + self.step_size)


def _segments(sigmas: Sequence[float]) -> list[int]:
    turns, direction, found = 0, 0.0, []
    for before, after in pairwise(sigmas):
        size = after - before
        turns += direction * size < 0
        direction = size or direction
        found.append(turns)
    return found


def _log_snr(noise_share: float) -> float:
    """log((1 - s) / s) of a noise share s."""
    inside = min(max(noise_share, LOG_SNR_MARGIN), 1 - LOG_SNR_MARGIN)
    return math.log((1 - inside) / inside)


def _mean(values: Iterable[float]) -> float:
    """The mean; 0 of an empty series."""
    found = list(values)
    return sum(found) / len(found) if found else 0.0
