"""Indicators: how much the model's output is expected to change, or a prediction to miss.

profile      a cheap quantity at the input of the block stack, named by the model's profile; its
             relative L1 change, rescaled by the profile's polynomial, is accumulated
             (arXiv 2411.19108, section 3.3)
first_block  the change of the first block's own residual
spectral     the change of the latent behind a filter that follows the noise level
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
        stride: only every `stride`-th token is read. If the family's function turns out to treat
            each token by itself, the other tokens are not computed either.
        reader: of the run.
    """

    def __init__(self, kind: str, family: Family, stride: int, reader: DeviceReader) -> None:
        self._kind = kind
        self._read = family.modulated_input
        self._stride = stride
        self._reader = reader
        self._per_token: bool | None = None

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
        stride = self._stride
        if self._kind == "stack_input":
            return image[:, ::stride].clone()
        assert self._read is not None
        if stride == 1:
            return self._read(block, arguments)
        if self._per_token:
            subsampled = arguments.subsampled(stride)
            assert subsampled is not None
            return self._read(block, subsampled)
        read = self._read(block, arguments)[:, ::stride].clone()
        if self._per_token is None:
            self._per_token = self._treats_tokens_separately(block, arguments, read)
        return read

    def _treats_tokens_separately(
        self, block: nn.Module, arguments: BlockArguments, expected: torch.Tensor
    ) -> bool:
        """Whether reading some of the tokens gives the same as reading all and selecting."""
        subsampled = arguments.subsampled(self._stride)
        if subsampled is None:
            return False
        assert self._read is not None
        try:
            read = self._read(block, subsampled)
        except (RuntimeError, ValueError):  # a modulation with one row per token does not fit
            return False
        if read.shape != expected.shape:
            return False
        return self._reader.read(torch.isclose(read, expected, 1e-2, 1e-3).all().view(1)) == [1.0]


class ErrorRate:
    """Expected error of a predictor, extrapolated from the error it was last seen to make.

    At each computed step the value is compared with the prediction for it. Their relative L1
    difference e, divided by the distances in sigma to the predictor's nodes, is the rate; as for
    any interpolation, the error at another level grows with those distances. Multiplied by the
    relative step size it is what the skip adds to the sample:

        distance = e * prod |s - s_j| / prod |s_now - s_j| * (step size / average step size)

    A threshold of 0.2 allows the predictions between two computed steps to miss a fifth of one
    average step. The sampler's own error shrinks with the number of steps in the same way, so that
    a threshold means the same in 20 steps as in 50. This is the local error control of adaptive
    multistep solvers (Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, III.5)
    on a fixed grid. Like EasyCache's transformation rate (arXiv 2507.02860) it needs nothing but
    the run itself.
    """

    horizon = 4.0
    """How far ahead is predicted, in distances between the two newest cached values."""

    def __init__(self, reader: DeviceReader) -> None:
        self._reader = reader
        self._error: float | None = None
        self._span = 1.0

    def measure(
        self, predictor: Predictor, sigma: float, value: torch.Tensor, regions: Regions = WHOLE
    ) -> torch.Tensor | None:
        """Compare `value` [rows, ...], computed at `sigma`, before the predictor observes it.

        Args:
            regions: of the value; the one that is missed most counts.

        Returns:
            The relative error, still on the device; None where nothing could be predicted.
        """
        known = predictor.sigmas
        if len(known) < predictor.order or any(same_sigma(sigma, level) for level in known):
            return None
        self._error = None
        self._span = _span(sigma, predictor.nodes)
        expected = predictor.predict(sigma, value)
        error = relative_change(value, expected, regions).max()
        self._reader.defer(DeferredScalar(error, self._receive))
        return error

    def _receive(self, error: float) -> None:
        self._error = error

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
        if any(same_sigma(sigma, level) for level in predictor.nodes):
            return None
        if self._error is None:
            self._reader.read()
        if self._error is None:
            return None
        if not math.isfinite(self._error):
            return FORCE_COMPUTE
        error = self._error * _span(sigma, predictor.nodes) / self._span
        return min(error * relative_step_size, FORCE_COMPUTE)


def _span(sigma: float, nodes: Sequence[float]) -> float:
    return math.prod(abs(sigma - node) for node in nodes)


def spectral_view(latent: torch.Tensor, sigma: float) -> torch.Tensor:
    """`latent` behind a Wiener filter for its noise level (SeaCache, arXiv 2602.18993).

    The gain is a S / (a^2 S + b^2) for the power S = |f|^-p of the clean signal (p = 2 for images,
    3 for videos), with signal level a = 1 - sigma and noise level b = sigma, divided by its mean.
    Strong noise hides detail: only what is visible is compared.

    Args:
        latent: [rows, channels, (frames,) height, width].
        sigma: noise level; above 1 (not flow matching) sigma / (1 + sigma) is used.
    """
    axes = list(range(2, latent.ndim))
    noise = sigma if sigma <= 1 else sigma / (1 + sigma)
    signal = max(1 - noise, 1e-6)
    squares = torch.zeros((), device=latent.device)
    for place, axis in enumerate(axes):
        frequencies = torch.fft.fftfreq(latent.shape[axis], device=latent.device)
        shape = [-1 if other == place else 1 for other in range(len(axes))]
        squares = squares + frequencies.square().view(shape)
    exponent = 1.5 if len(axes) == 3 else 1.0
    power = squares.pow(exponent).clamp_min(1e-12).reciprocal()
    gain = signal * power / (signal**2 * power + noise**2)
    spectrum = torch.fft.fftn(latent.float(), dim=axes)
    view: torch.Tensor = torch.fft.ifftn(spectrum * (gain / gain.mean()), dim=axes).real
    return view.contiguous()  # `real` is a view that would keep the imaginary half in memory
