"""Predictors: what replaces a value of the model on a skipped step.

The value is the residual of one branch's block stack, or a whole prediction after guidance. Every
predictor is a linear combination of cached values. Its weights depend on the noise levels and add
up to one, so that a constant series is continued exactly.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence

import torch

from ..config import PREDICTORS
from ..errors import ConfigError
from ..schedule import same_sigma
from .device import DeferredScalar
from .transfer import beside, in_float32

LEAST_SIGNAL = 0.1
"""Share of a squared change that is more than rounding, below which nothing is learned from it."""


def combine(values: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Weighted sum of `values`, the newest one last; `weights` add up to one.

    Computed as newest + sum of weight * (older - newest): equal values give themselves, exactly.
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
    """Lagrange weights of the polynomial through values at `nodes`, evaluated at `sigma`."""
    return [
        math.prod((sigma - other) / (node - other) for other in nodes if other != node)
        for node in nodes
    ]


class Predictor(ABC):
    """Predicts a value from the cached values of computed steps.

    capacity: number of values that are cached. The prediction interpolates them: its error grows
        with the product of the distances to them in sigma.
    """

    capacity: int

    def __init__(self) -> None:
        self._cache: deque[tuple[float, torch.Tensor]] = deque(maxlen=self.capacity)

    def observe(self, sigma: float, value: torch.Tensor) -> None:
        """Cache `value`, computed at noise level `sigma`.

        A value at the newest level replaces the one cached there. Where the noise level changes
        its direction, the values before the turning point are dropped.
        """
        if self._cache and same_sigma(sigma, self.sigmas[-1]):
            self._cache.pop()
        elif len(self._cache) > 1:
            before, newest = self.sigmas[-2:]
            if (sigma - newest) * (newest - before) < 0:
                self._cache.clear()
        self._cache.append((sigma, value))

    def predict(self, sigma: float, like: torch.Tensor | None = None) -> torch.Tensor:
        """The value expected at `sigma`, in the type it is cached in. One value must be cached.

        Args:
            like: a tensor on the device that computes it; None where the values are cached there.
        """
        values = self.values if like is None else [beside(value, like) for value in self.values]
        return combine(values, self.weights(sigma))

    @abstractmethod
    def weights(self, sigma: float) -> list[float]:
        """Weight of each cached value in the prediction at `sigma`; they add up to one."""

    def deferred_update(
        self, sigma: float, value: torch.Tensor, rounding: torch.Tensor | None = None
    ) -> DeferredScalar | None:
        """What the predictor learns from the true `value` at `sigma`, before it is observed.

        Args:
            rounding: relative rounding error of the values (`rounding.rounding_error`).

        Returns:
            A scalar to be read from the device at some later time, or None.
        """
        return None

    @property
    def sigmas(self) -> list[float]:
        """Noise levels of the cached values, newest last."""
        return [sigma for sigma, _ in self._cache]

    @property
    def values(self) -> list[torch.Tensor]:
        """The cached values, newest last."""
        return [value for _, value in self._cache]


class Reuse(Predictor):
    """The newest value, unchanged (arXiv 2411.19108, section 3.1)."""

    capacity = 1

    def weights(self, sigma: float) -> list[float]:
        return [1.0]


class Linear(Predictor):
    """Linear extrapolation from the two newest values; the newest one while there is only one."""

    capacity = 2

    def weights(self, sigma: float) -> list[float]:
        return interpolation_weights(self.sigmas, sigma)


class Damped(Linear):
    """Linear extrapolation multiplied by a fraction that is learned during the run.

    At each computed step the fraction t that would have come nearest to the true value is known:
    t = <v - v1, line - v1> / |line - v1|^2, clipped to 0 (`Reuse`) … 1 (`Linear`). The fraction in
    use is the mean of the previous one and the newest t; it starts at 1/2. Where predictions bend
    from step to step, as with few steps or strong guidance, it becomes small; where they follow a
    line it approaches 1.

    Values of half precision hold rounding errors, which do not correlate from step to step. That of
    v1 makes <v - v1, line - v1> smaller, and both make |line - v1|^2 larger, so that t would go
    down to 0 where values hardly change: what is to be expected of them is taken off. Where that is
    nearly all of |line - v1|^2, nothing is learned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fraction = 0.5

    def weights(self, sigma: float) -> list[float]:
        if len(self.sigmas) < 2:
            return super().weights(sigma)
        older, _ = super().weights(sigma)
        return [self.fraction * older, 1.0 - self.fraction * older]

    def deferred_update(
        self, sigma: float, value: torch.Tensor, rounding: torch.Tensor | None = None
    ) -> DeferredScalar | None:
        if len(self.sigmas) < 2 or any(same_sigma(sigma, level) for level in self.sigmas):
            return None
        values = [in_float32(beside(held, value)) for held in self.values]
        newest, weights = values[-1], super().weights(sigma)
        line, change = combine(values, weights) - newest, in_float32(value) - newest
        line, change = line.flatten().float(), change.flatten().float()
        product, norm = torch.dot(change, line), torch.dot(line, line)
        if rounding is not None:
            ahead = -weights[0]
            noise = newest.float().mul(rounding).square_().sum()
            product, signal = product + ahead * noise, norm - 2 * ahead**2 * noise
            norm = torch.where(signal < LEAST_SIGNAL * norm, math.nan, signal)
        return DeferredScalar(product / norm.clamp_min(1e-30), self.learn)

    def learn(self, best: float) -> None:
        """Take the fraction that would have been best at a computed step into the mean."""
        if math.isfinite(best):
            self.fraction = (self.fraction + min(max(best, 0.0), 1.0)) / 2


_BY_NAME: dict[str, type[Predictor]] = {
    "reuse": Reuse,
    "linear": Linear,
    "damped": Damped,
}


def make_predictor(name: str) -> Predictor:
    """A new predictor.

    Raises:
        ConfigError: no predictor has that name.
    """
    if name not in _BY_NAME:
        allowed = ", ".join(PREDICTORS[1:])
        raise ConfigError(f"predictor must be one of {allowed}, not {name!r}")
    return _BY_NAME[name]()
