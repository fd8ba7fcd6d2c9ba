"""Indicators: how much the model's output is expected to change, or a prediction to miss.

profile      a cheap quantity at the input of the block stack, named by the model's profile; its
             relative L1 change, rescaled by the profile's polynomial, is accumulated
             (arXiv 2411.19108, section 3.3)
rate         the error that the predictor made at the last computed step, scaled to this gap
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn

from ..config import FORCE_COMPUTE
from ..families.spec import TIMESTEP_INDICATORS, Family
from ..families.streams import BlockArguments, reading_model
from ..schedule import same_sigma
from .device import DeferredScalar, DeviceReader
from .growth import Growth, interpolation_growth
from .predictors import Predictor
from .regions import WHOLE, Regions, relative_change


class TimestepChanges:
    """Relative change of the timestep embedding between noise levels.

    Args:
        embed: noise levels [n] -> their embeddings [n, width].
        sigmas: levels whose consecutive changes are computed now, with one read from the device.
            Other pairs are computed when they are first asked for.
        reader: reads them.
    """

    def __init__(
        self,
        embed: Callable[[list[float]], torch.Tensor],
        sigmas: Sequence[float],
        reader: DeviceReader,
    ) -> None:
        self._embed = embed
        self._reader = reader
        self._changes: dict[tuple[float, float], float] = {}
        levels = list(dict.fromkeys(sigmas))
        if len(levels) > 1:
            table = embed(levels)
            changes = reader.read(relative_change(table[1:], table[:-1]))
            self._changes = dict(zip(pairwise(levels), changes, strict=True))

    def between(self, before: float, now: float) -> float:
        """Relative L1 change of the embedding from noise level `before` to `now`."""
        if before == now:
            return 0.0
        if (before, now) not in self._changes:
            table = self._embed([before, now])
            (change,) = self._reader.read(relative_change(table[1:], table[:-1]))
            self._changes[before, now] = change
        return self._changes[before, now]


class StackInputReader:
    """Reads, for one run, the quantity that a profile was fitted to.

    Args:
        kind: `modulated_input`, `stack_input`, or one of `TIMESTEP_INDICATORS`, for which nothing
            is read here.
        family: tells how the modulated input is read.
    """

    def __init__(self, kind: str, family: Family) -> None:
        self._kind = kind
        self._read = family.modulated_input

    @reading_model()
    def __call__(
        self, block: nn.Module, arguments: BlockArguments, image: torch.Tensor
    ) -> torch.Tensor | None:
        """The quantity before `block` runs on `arguments`.

        Args:
            image: the image stream at the input of the stack, the batch first.

        Returns:
            [rows, tokens, width]; None where it follows from the noise level alone.

        Raises:
            FamilyMismatch: the block is not what the family's function expects.
        """
        if self._kind in TIMESTEP_INDICATORS:
            return None
        if self._kind == "stack_input":
            return image.clone()
        assert self._read is not None
        return self._read(block, arguments)


class ErrorRate:
    """Expected error of a predictor, extrapolated from the error it was last seen to make.

    At each computed step the value is compared with the prediction for it. Their relative L1
    difference e, divided by the growth up to there, is the rate. Multiplied by the relative step
    size, the error at another level is what the skip adds to the sample:

        distance = e * growth(s, nodes) / growth(s_now, nodes) * (step size / average step size)

    A threshold of 0.2 allows the predictions between two computed steps to miss a fifth of one
    average step. The sampler's own error shrinks with the number of steps in the same way, so that
    a threshold means the same in 20 steps as in 50. This is the local error control of adaptive
    multistep solvers (Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, III.5)
    on a fixed grid. Like EasyCache's transformation rate (arXiv 2507.02860) it needs nothing but
    the run itself.

    Args:
        reader: reads the errors from the device.
        growth: of the error, with the distances to the predictor's nodes.
    """

    horizon = 4.0
    """How far ahead is predicted, in distances between the two newest cached values."""

    def __init__(self, reader: DeviceReader, growth: Growth = interpolation_growth) -> None:
        self._reader = reader
        self._growth = growth
        self._error: float | None = None
        self._grown = 1.0

    def measure(
        self,
        predictor: Predictor,
        sigma: float,
        value: torch.Tensor,
        regions: Regions = WHOLE,
        origin: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """Compare `value` [rows, ...], computed at `sigma`, before the predictor observes it.

        Args:
            regions: of the value; the one that is missed most counts.
            origin: from where the size of the value is measured; None for 0.

        Returns:
            The relative error, still on the device; None where nothing could be predicted.
        """
        known = predictor.sigmas
        if len(known) < predictor.capacity or any(same_sigma(sigma, level) for level in known):
            return None
        self._error = None
        self._grown = self._growth(sigma, known)
        expected = predictor.predict(sigma, value)
        if origin is not None:
            value, expected = value - origin, expected - origin
        error = relative_change(value, expected, regions).max()
        self._reader.defer(DeferredScalar(error, self._receive))
        return error

    def _receive(self, error: float) -> None:
        self._error = error

    @property
    def rate(self) -> float | None:
        """The last measured error over its growth; None if there is none yet."""
        return None if self._error is None else self._error / max(self._grown, 1e-30)

    def beyond_horizon(self, predictor: Predictor, sigma: float) -> bool:
        """Whether `sigma` is too far from the cached values to extrapolate."""
        known = predictor.sigmas
        return len(known) > 1 and (
            abs(sigma - known[-1]) > self.horizon * abs(known[-1] - known[-2])
        )

    def distance(
        self, predictor: Predictor, sigma: float, relative_step_size: float
    ) -> float | None:
        """The error that skipping a step at `sigma` is expected to add.

        Args:
            relative_step_size: size of the step, in average steps of the run.

        Returns:
            The distance, or None where it is unknown: while no error has been measured, and at a
            level that has been computed, where a sampler such as Heun's has moved the latent.
        """
        known = predictor.sigmas
        if any(same_sigma(sigma, level) for level in known):
            return None
        if self._error is None:
            self._reader.read()
        if self._error is None:
            return None
        if not math.isfinite(self._error):
            return FORCE_COMPUTE
        error = self._error * self._growth(sigma, known) / self._grown
        return min(error * relative_step_size, FORCE_COMPUTE)
