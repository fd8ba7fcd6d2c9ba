"""A wanted number of computed steps, kept by a forecast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..config import FORCE_COMPUTE
from ..schedule import Schedule
from .growth import Growth, interpolation_growth, random_walk_growth
from .indicators import ErrorRate
from .policy import Policy
from .strategy import RunSettings

EARLY, EARLY_SHARE = 2.4, 0.2
LATE, LATE_SHARE = 3.0, 0.1
"""Logarithm of the usual error at the start and at the end of a run, relative to its middle, and
the share of the run over which either fades. Chosen among six pairs of values on tuning pairs of
the demo, digits and photos models; the six had been narrowed down on other seeds of the captions
that are judged. Larger values keep more steps for the start or the end."""
NOISY_EARLY, NOISY_EARLY_SHARE = 4.0, 0.4
NOISY_LATE, NOISY_LATE_SHARE = 0.5, 0.2
"""The same for samplers that add noise. Chosen among seven sets of values on three tuning pairs of
the demo (30 steps), digits and photos (20 steps) models with three such samplers, at 1.5x. No set
is best everywhere: with it `euler_ancestral` has 50, 28 and 34 dB there; others have up to 66 dB on
the demo and 23 on the digits, or 33 on the digits and 45 on the demo."""
UNMEASURED = 3
"""First steps of a segment, after which the first error has been measured."""
LEAST, MOST, HALVINGS = 1e-4, 1.6, 14
"""Thresholds between which the one that keeps the number is searched for, by halving. Above MOST
fewer sampling steps would come nearer to the uncached picture than skipped ones, on the tuning
pairs of the demo model at 12 and 20 steps: more steps than wanted are computed there."""


def one_step_growth(
    sigmas: Sequence[float], step: int, growth: Growth = interpolation_growth
) -> float:
    """Growth of the error at `step`, predicted from the two levels before it.

    Args:
        step: 2 or more.
    """
    here, newest, older = (sigmas[step - back] for back in range(3))
    return max(growth(here, (older, newest)), 1e-30)


def usual_rates(sigmas: Sequence[float], noisy: bool = False, ends: bool = True) -> list[float]:
    """What is known of a model's errors before anything was measured on it.

    Predictions miss most at the start, where the picture takes shape, and again at the end. Only
    the ratios between steps matter.

    Args:
        sigmas: noise levels of the run, one more than steps.
        noisy: whether the sampler adds noise.
        ends: whether the trajectory ends with the run (`Schedule.leaves_noise`).

    Returns:
        For each step the error of a prediction one step ahead over `one_step_growth`.
    """
    steps = len(sigmas) - 1
    early, share, late, late_share = EARLY, EARLY_SHARE, LATE, LATE_SHARE
    growth = interpolation_growth
    if noisy:
        early, share = NOISY_EARLY, NOISY_EARLY_SHARE
        late, late_share = NOISY_LATE, NOISY_LATE_SHARE
        growth = random_walk_growth
    rates = []
    for step in range(steps):
        progress = step / steps
        logarithm = early * math.exp(-progress / share)
        if ends:
            logarithm += late * math.exp(-(1 - progress) / late_share)
        rates.append(math.exp(logarithm) / one_step_growth(sigmas, max(step, 2), growth))
    return rates


def rates_at(
    known: Sequence[float], known_sigmas: Sequence[float], sigmas: Sequence[float]
) -> list[float]:
    """Rates of one schedule at the steps of another one, by the logarithm, linear in sigma.

    Args:
        known: rates of the steps of `known_sigmas`, above 0.
        known_sigmas: noise levels that do not rise, one more than rates.
        sigmas: noise levels of the other schedule.
    """
    levels = [-sigma for sigma in known_sigmas[:-1]]
    logarithms = np.log(known)
    return [float(math.exp(np.interp(-sigma, levels, logarithms))) for sigma in sigmas[:-1]]


class StepBudget:
    """Measures distances in units of the threshold with which a wanted number of steps is computed.

    After each computed step the rest of the run is simulated: the error that was just measured is
    scaled to the levels ahead by the distances to the predictor's nodes (`ErrorRate`) and by the
    usual course of errors in a run. The threshold is the smallest with which the simulation
    computes no more steps than are left. It grows with the error that was measured, as distances
    do: which steps are computed follows from the schedule, the number and the usual course alone,
    unless the errors are so large that the threshold reaches `MOST`.

    Args:
        sigmas: noise levels of the run (`Schedule.axis`), one more than steps.
        sizes: relative size of each step (`Schedule.relative_step_size`).
        rates: of each step, as `usual_rates`, or as a calibration measured them.
        fixed: whether a step is computed whatever its error.
        count: wanted number of computed steps.
        max_skip: most steps skipped in a row, 0 for no limit.
    """

    def __init__(
        self,
        sigmas: Sequence[float],
        sizes: Sequence[float],
        rates: Sequence[float],
        fixed: Sequence[bool],
        count: int,
        max_skip: int = 0,
        growth: Growth = interpolation_growth,
    ) -> None:
        self._sigmas, self._sizes, self._rates = sigmas, sizes, rates
        self._fixed, self.count, self._max_skip = fixed, count, max_skip
        self._growth = growth
        self._computed: set[int] = set()
        self._threshold: float | None = None
        self.exceeded = False
        """Whether more steps are computed than wanted, because the errors are too large."""

    @property
    def threshold(self) -> float:
        """The one in whose parts distances are given now; 0 where every step is computed."""
        return self._threshold or 0.0

    def record(self, step: int, skipped: bool) -> None:
        """`step` has been evaluated."""
        if not skipped:
            self._computed.add(step)
            self._threshold = None

    def relative(
        self, distance: float, step: int, nodes: Sequence[float], rate: float | None
    ) -> float:
        """The part of the threshold that `distance` is: from 1 on, a step is computed.

        Args:
            distance: of skipping `step` (`ErrorRate.distance`).
            nodes: noise levels of the values that are extrapolated, the newest last.
            rate: the last measured error over the product of its distances to its nodes.
        """
        if rate is None or not math.isfinite(rate):
            return FORCE_COMPUTE
        if self._threshold is None:
            self._threshold = self._solved(step, nodes, rate)
        if not self._threshold:
            return FORCE_COMPUTE
        return min(distance / self._threshold, FORCE_COMPUTE)

    def _solved(self, step: int, nodes: Sequence[float], rate: float) -> float:
        """The threshold; 0 where as many steps are left as may be computed."""
        left = self.count - len(self._computed)
        if left >= len(self._sizes) - step:
            return 0.0
        scale = rate / max(self._rates[max(self._computed, default=0)], 1e-30)
        low, high = math.log(LEAST), math.log(MOST)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            if self._simulated(step, nodes, rate, scale, math.exp(middle), left) <= left:
                high = middle
            else:
                low = middle
        if high == math.log(MOST):
            self.exceeded = True
        return math.exp(high)

    def notes(self, computed: int) -> list[str]:
        """What to say at the end of a run in which `computed` steps were computed: one sentence
        where they are more than wanted because of their errors."""
        if not self.exceeded or not max(self.count, self.least()) < computed:
            return []
        return [
            f"{self.count} computed steps were wanted, and {computed} were computed: with fewer, "
            "this picture would change more than by sampling with fewer steps."
        ]

    def least(self) -> int:
        """The fewest steps that are computed: those that must be, and those beyond the reach of
        the ones before."""
        start = self._sigmas[0]
        return self._simulated(0, (start, start), 0.0, 0.0, math.inf, len(self._sizes))

    def _simulated(
        self,
        first: int,
        nodes: Sequence[float],
        rate: float,
        scale: float,
        threshold: float,
        enough: int,
    ) -> int:
        """Steps computed from `first` on, counted up to `enough` + 1, if errors are as expected."""
        older, newest = nodes[0], nodes[-1]
        accumulated, in_a_row, computed = 0.0, 0, 0
        for step in range(first, len(self._sizes)):
            sigma = self._sigmas[step]
            ahead = abs(sigma - newest)
            accumulated += rate * self._growth(sigma, (older, newest)) * self._sizes[step]
            capped = bool(self._max_skip) and in_a_row >= self._max_skip
            beyond = ahead > ErrorRate.horizon * abs(newest - older)
            if self._fixed[step] or capped or beyond or not accumulated < threshold:
                computed += 1
                if computed > enough:
                    break
                older, newest = newest, sigma
                rate = scale * self._rates[step]
                accumulated, in_a_row = 0.0, 0
            else:
                in_a_row += 1
        return computed


def budget_of(settings: RunSettings, schedule: Schedule, policy: Policy) -> StepBudget | None:
    """The budget of one run; None where no number of computed steps is wanted."""
    if settings.budget is None:
        return None
    return StepBudget(
        schedule.axis,
        [schedule.relative_step_size(start, end) for start, end in pairwise(schedule.sigmas)],
        settings.budget.rates,
        always_computed(schedule, policy),
        settings.budget.count,
        settings.config.max_skip,
        settings.budget.growth,
    )


def always_computed(schedule: Schedule, policy: Policy) -> list[bool]:
    """Of each step, whether it is computed whatever its error: because of the policy, or since
    nothing has been measured yet in its segment of the schedule."""
    unknown = {first + after for first in schedule.first_steps for after in range(UNMEASURED)}
    return [
        step in unknown or policy.fixed_reason(step) is not None for step in range(schedule.steps)
    ]
