"""An uncached run, reduced to what the errors of predictions follow from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from ..engine.budget import one_step_growth
from ..engine.predictors import Damped, interpolation_weights
from ..schedule import Schedule

LEAST_ERROR = 1e-6
"""Of a prediction, where a trajectory is a straight line."""
NOTHING = torch.empty(0)
"""Stands for a value where only the weights of a predictor are asked for."""
Floats = NDArray[np.float64]


def geometric_mean(values: Floats) -> float:
    """Mean of the logarithms, exponentiated; positive values."""
    return float(np.exp(np.mean(np.log(values))))


@dataclass(frozen=True)
class Trajectory:
    """An uncached run, reduced.

    Args:
        sigmas: its n + 1 noise levels.
        gram: [n, n], the inner products of its derivatives.
    """

    sigmas: tuple[float, ...]
    gram: Floats

    @cached_property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @cached_property
    def length(self) -> float:
        """Sum over steps of the norm of the change that a step makes to the sample."""
        return float(
            sum(abs(h) * g**0.5 for h, g in zip(self.spans, self.gram.diagonal(), strict=True))
        )

    @cached_property
    def axis(self) -> list[float]:
        """Its levels as values are extrapolated over them (`Schedule.axis`)."""
        return Schedule(self.sigmas).axis

    @cached_property
    def spans(self) -> tuple[float, ...]:
        return tuple(b - a for a, b in pairwise(self.sigmas))

    def best_fraction(self, step: int) -> float:
        """The part of the way along the line through the two steps before that comes nearest to
        the derivative at `step` (`Damped`)."""
        older, newer = interpolation_weights(
            [self.axis[step - 2], self.axis[step - 1]], self.axis[step]
        )
        line = {step - 2: older, step - 1: newer - 1.0}
        change = {step - 1: -1.0, step: 1.0}
        return self._inner(change, line) / max(self._inner(line, line), 1e-30)

    def _inner(self, one: dict[int, float], other: dict[int, float]) -> float:
        left, right = np.array([*one.values()]), np.array([*other.values()])
        return float(left @ self.gram[np.ix_([*one], [*other])] @ right)

    def norm(self, weights: dict[int, float]) -> float:
        """Norm of the sum of derivatives times `weights`, over `length`."""
        steps = list(weights)
        w = np.array([weights[step] for step in steps])
        return float(max(w @ self.gram[np.ix_(steps, steps)] @ w, 0.0) ** 0.5) / self.length


def one_step_rates(run: Trajectory) -> list[float]:
    """Of each step the relative error of a prediction from the two steps before, over the product
    of its distances to them (`engine.budget.usual_rates`).

    The predictor learns its fraction as in a forecast that computes every step. The first two
    steps, before which there are no two, have the third one's.
    """
    predictor, rates = Damped(), []
    for step in range(run.steps):
        if step > 1:
            before, newest = step - 2, step - 1
            older, newer = predictor.weights(run.axis[step])
            missed = run.norm({before: older, newest: newer, step: -1.0})
            error = missed / max(run.norm({step: 1.0}), 1e-30)
            rates.append(max(error, LEAST_ERROR) / one_step_growth(run.axis, step))
            predictor.learn(run.best_fraction(step))
        predictor.observe(run.axis[step], NOTHING)
    return [*rates[:1] * min(2, run.steps), *rates]


def mean_rates(runs: Sequence[Trajectory]) -> tuple[float, ...]:
    """The geometric mean over `runs` of their `one_step_rates`."""
    return tuple(geometric_mean(column) for column in np.array([*map(one_step_rates, runs)]).T)
