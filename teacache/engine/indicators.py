"""How much the model's output is expected to change, or a prediction to miss.

`profile`: something cheap is read at the entry of the block stack; its relative L1 change,
rescaled by the profile, is accumulated (arXiv 2411.19108, section 3.3).
`first_block`: the change of the first block's own residual.
`spectral`: the change of the latent behind a filter that follows the noise level.
`rate`: the error that the predictor itself has made, scaled to the gap at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from .policy import UNSURE
from .predictors import Predictor, same_level
from .reads import DeviceReads

if TYPE_CHECKING:
    from ..families.streams import BlockArguments

ModulatedInput = Callable[[Any, "BlockArguments"], torch.Tensor]
"""(first block, its arguments) -> the block's modulated image tokens, [rows, tokens, width]."""

EmbedTimesteps = Callable[[Any, torch.Tensor], torch.Tensor]
"""(transformer, timesteps [n]) -> their embeddings, [n, width]."""

TIMESTEP_READINGS = ("timestep", "timestep_projection")
"""Readings that follow from the noise level alone, read by `EmbedTimesteps`."""


def relative_change(now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """sum|now - before| / sum|before| for each row, [rows], in fp32, on the tensors' device."""
    difference = (now - before).abs_().flatten(1).sum(dim=1, dtype=torch.float32)
    return difference / before.abs().flatten(1).sum(dim=1, dtype=torch.float32)


class TimestepSchedule:
    """Change of the timestep embedding between two noise levels, known before sampling starts.

    All consecutive pairs of the run's own levels are computed at once, with one read from the
    device; other pairs (samplers that evaluate between the levels) when first asked for.
    """

    def __init__(
        self,
        embed: Callable[[list[float]], torch.Tensor],
        sigmas: Sequence[float],
    ) -> None:
        self._embed = embed
        self._changes: dict[tuple[float, float], float] = {}
        levels = list(dict.fromkeys(sigmas))
        if len(levels) > 1:
            table = embed(levels)
            changes = relative_change(table[1:], table[:-1]).tolist()
            self._changes = dict(zip(pairwise(levels), changes, strict=True))

    def change(self, before: float, now: float) -> float:
        """Relative L1 change of the embedding from noise level `before` to `now`."""
        if before == now:
            return 0.0
        if (before, now) not in self._changes:
            table = self._embed([before, now])
            self._changes[before, now] = relative_change(table[1:], table[:-1]).item()
        return self._changes[before, now]


class Rate:
    """Expected error of a predictor, from the error that it was last seen to make.

    At each computed step the value is compared with what the predictor would have given; their
    relative L1 difference e, over the distances in sigma to the observations that the prediction
    passes through, is the rate. As for any interpolation its error at another level grows with
    those distances. Weighted with the length of the step, in average steps of the run, it is what
    the skip adds to the sample:

        distance = e * prod |s - s_j| / prod |s_now - s_j| * (step in average steps: `Pace`)

    A threshold of 0.2 allows the predictions between two computed steps to miss a fifth of one
    average step. The error of the sampler's own steps shrinks in the same way with their number,
    so that a threshold means the same beside it in 20 steps as in 50. This is the local error
    control of adaptive multistep solvers (Hairer, Norsett, Wanner, Solving ODEs I, III.5), on a
    fixed grid; like EasyCache's transformation rate (arXiv 2507.02860) it needs nothing but the
    run itself.
    """

    reach = 4.0
    """How far ahead is predicted, in gaps between the two newest observations."""

    def __init__(self, reads: DeviceReads) -> None:
        self._reads = reads
        self._error: float | None = None
        self._span = 1.0

    def measure(self, predictor: Predictor, sigma: float, value: torch.Tensor) -> None:
        """Compare `value` [rows, ...], computed at `sigma`, before the predictor observes it."""
        known = predictor.sigmas
        if len(known) < predictor.order or any(same_level(sigma, level) for level in known):
            return
        self._error = None
        self._span = _span(sigma, predictor.leading)
        expected = predictor.predict(sigma).to(value.device)
        self._reads.later(relative_change(value, expected).max(), self._receive)

    def _receive(self, error: float) -> None:
        self._error = error

    def out_of_reach(self, predictor: Predictor, sigma: float) -> bool:
        """Whether `sigma` lies too far ahead of the observations."""
        known = predictor.sigmas
        return len(known) > 1 and abs(sigma - known[-1]) > self.reach * abs(known[-1] - known[-2])

    def distance(self, predictor: Predictor, sigma: float, share: float) -> float | None:
        """What skipping a step at `sigma` is expected to add; None where nothing tells.

        That is so while no error has been seen, and at a level that has been computed: a sampler
        that evaluates it again (Heun's) has moved the latent, and the rate knows levels only.

        share: the step's length in average steps.
        """
        if any(same_level(sigma, level) for level in predictor.leading):
            return None
        if self._error is None:
            self._reads.now()
        if self._error is None:
            return None
        if not math.isfinite(self._error):
            return UNSURE
        error = self._error * _span(sigma, predictor.leading) / self._span
        return min(error * share, UNSURE)


def _span(sigma: float, nodes: Sequence[float]) -> float:
    return math.prod(abs(sigma - node) for node in nodes)


def spectral_view(latent: torch.Tensor, sigma: float) -> torch.Tensor:
    """`latent` [rows, channels, (frames,) height, width] behind a Wiener filter for `sigma`.

    SeaCache (arXiv 2602.18993): the gain is a S / (a^2 S + b^2) for the clean signal's power
    S = |f|^-p (p 2 for pictures, 3 for films) at signal level a = 1 - sigma and noise level
    b = sigma, divided by its mean. Levels above 1 (not flow matching) count as a = 1 / (1 +
    sigma). The largest noise hides detail, so that only what can be seen is compared.
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
    return view.contiguous()  # without the imaginary half, which `view` would keep in memory
