"""What stands in for a value of the model on a skipped step.

A value is the residual of one branch's block stack, or a whole prediction. Every predictor is a
combination of observed values whose weights depend on the noise levels alone and add up to one,
so that a constant series is continued exactly. They extrapolate in the noise level sigma, in
either direction.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..config import PREDICTORS, ConfigError

Lesson = tuple[torch.Tensor, Callable[[float], None]]
"""A scalar on its device, and who is to be told the number."""


def same_level(one: float, other: float) -> bool:
    """Whether two noise levels are one: samplers with two evaluations at a level repeat it."""
    return math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-6)


def combine(values: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Sum of `values` times `weights`, which add up to one; the newest value is the last.

    Written as newest + sum of weight * (older - newest), so that equal values give themselves.
    """
    newest = values[-1]
    result = newest
    for value, weight in zip(values[:-1], weights, strict=False):
        if weight and result is newest:
            result = torch.lerp(newest, value, weight)
        elif weight:
            result = result.add_(value - newest, alpha=weight)
    return result


def interpolation_weights(nodes: Sequence[float], sigma: float) -> list[float]:
    """Lagrange's weights: the polynomial through values at `nodes`, read at `sigma`."""
    return [
        math.prod((sigma - other) / (node - other) for other in nodes if other != node)
        for node in nodes
    ]


class Predictor(ABC):
    """Predicts a value from those of computed steps. Holds `capacity` of them, newest last.

    order: how many of the newest observations the leading term passes through; its error grows
    with the product of their distances in sigma.
    """

    capacity: int
    order: int

    def __init__(self) -> None:
        self._held: deque[tuple[float, torch.Tensor]] = deque(maxlen=self.capacity)

    def observe(self, sigma: float, value: torch.Tensor) -> None:
        """Remember `value`, computed at noise level `sigma`.

        Another value at the newest level takes its place. Where the levels turn (a schedule that
        rises again), what lies behind the turn is forgotten.
        """
        if self._held and same_level(sigma, self.sigmas[-1]):
            self._held.pop()
        elif len(self._held) > 1:
            before, newest = self.sigmas[-2:]
            if (sigma - newest) * (newest - before) < 0:
                self._held.clear()
        self._held.append((sigma, value))

    def predict(self, sigma: float) -> torch.Tensor:
        """The value expected at `sigma`; needs one observation at least."""
        return combine(self.held, self.weights(sigma))

    @abstractmethod
    def weights(self, sigma: float) -> list[float]:
        """Weight of each held value in the prediction at `sigma`, adding up to one."""

    def lesson(self, sigma: float, value: torch.Tensor) -> Lesson | None:
        """What is learned once `value` is known at `sigma`, before it is observed."""
        return None

    @property
    def sigmas(self) -> list[float]:
        """Noise levels of what is held, newest last."""
        return [sigma for sigma, _ in self._held]

    @property
    def held(self) -> list[torch.Tensor]:
        """What is held, newest last."""
        return [value for _, value in self._held]

    @property
    def leading(self) -> list[float]:
        """The noise levels that the prediction's leading term passes through."""
        return self.sigmas[-self.order :]


class Reuse(Predictor):
    """The newest value, unchanged (arXiv 2411.19108, section 3.1)."""

    capacity, order = 1, 1

    def weights(self, sigma: float) -> list[float]:
        return [1.0]


class Linear(Predictor):
    """The straight line through the two newest values; the newest one while there is no other."""

    capacity, order = 2, 2

    def weights(self, sigma: float) -> list[float]:
        return interpolation_weights(self.sigmas, sigma)


class Damped(Linear):
    """The same line, but only a part of the way: as far as lines were right before.

    At each computed step the best part t of the way to the line's end is known, that which comes
    nearest to the value: t = <v - v1, line - v1> / |line - v1|^2, between 0 (`Reuse`) and 1
    (`Linear`). What is followed is the mean of the part followed so far and the newest t: 1/2 at
    first. Where the derivative bends from step to step, in few steps or with strong guidance, a
    line leads astray, and where it runs smoothly it is followed nearly to its end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.part = 0.5

    def weights(self, sigma: float) -> list[float]:
        if len(self.sigmas) < 2:
            return super().weights(sigma)
        older, _ = super().weights(sigma)
        return [self.part * older, 1.0 - self.part * older]

    def lesson(self, sigma: float, value: torch.Tensor) -> Lesson | None:
        if len(self.sigmas) < 2 or any(same_level(sigma, level) for level in self.sigmas):
            return None
        newest = self.held[-1].to(value.device)
        way = combine(self.held, super().weights(sigma)).to(value.device) - newest
        way, done = way.flatten().float(), (value - newest).flatten().float()
        length: torch.Tensor = torch.dot(way, way)
        return torch.dot(done, way) / length.clamp_min(1e-30), self._learn

    def _learn(self, lesson: float) -> None:
        if math.isfinite(lesson):
            self.part = (self.part + min(max(lesson, 0.0), 1.0)) / 2


class Blend(Predictor):
    """The straight line, plus half of a Chebyshev fit to what it misses.

    Ridge regression in Chebyshev polynomials on four observations, as the spectral forecast of
    cache-dit blends it with a Taylor series (weight 0.5, 4 terms, ridge 0.1). Here it is fitted
    to the deviations from the line through the two newest values, so that a linear series stays
    exact. With fewer observations it is `Linear`.
    """

    capacity, order = 4, 2
    share, ridge = 0.5, 0.1

    def weights(self, sigma: float) -> list[float]:
        sigmas = self.sigmas
        line = self._line(sigma)
        if len(sigmas) < self.capacity:
            return line
        # Each row: what one observation is more than the line through the two newest ones.
        misses = np.eye(len(sigmas)) - np.array([self._line(node) for node in sigmas])
        basis = self._basis(np.array([*sigmas, sigma]))
        known, wanted = basis[:-1], basis[-1]
        gram = known.T @ known + self.ridge * np.eye(self.capacity)
        fit = wanted @ np.linalg.solve(gram, known.T)
        return [float(weight) for weight in np.array(line) + self.share * (fit @ misses)]

    def _line(self, sigma: float) -> list[float]:
        sigmas = self.sigmas
        return [0.0] * (len(sigmas) - 2) + interpolation_weights(sigmas[-2:], sigma)

    def _basis(self, levels: np.ndarray) -> np.ndarray:
        """Chebyshev polynomials of the levels, mapped to -1 … 1 over the held ones."""
        low, high = levels[:-1].min(), levels[:-1].max()
        scaled = 2 * (levels - low) / (high - low) - 1
        return np.polynomial.chebyshev.chebvander(scaled, self.capacity - 1)


_BY_NAME: dict[str, type[Predictor]] = {
    "reuse": Reuse,
    "linear": Linear,
    "damped": Damped,
    "blend": Blend,
}


def make_predictor(name: str) -> Predictor:
    """A fresh predictor of that name."""
    if name not in _BY_NAME:
        allowed = ", ".join(PREDICTORS[1:])
        raise ConfigError(f"predictor must be one of {allowed}, not {name!r}")
    return _BY_NAME[name]()
