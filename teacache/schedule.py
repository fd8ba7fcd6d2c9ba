"""How far a step goes, in average steps of its run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from .engine.policy import UNSURE

EDGE = 1e-4
"""Shares of noise nearer than this to none or to all have no ratio of signal to noise."""


class Pace:
    """The length of steps over `sigmas` (noise levels), half by noise level, half by its log.

    One half is the change of the noise level s: the displacement of the sample, along which the
    error of a derivative counts. The other one is the change of log((1 - s) / s), signal over
    noise: what is missed in the first, noisiest steps decides on the whole picture, though they
    hardly move it, and what is missed in the last ones is not put right any more. Each half is
    1 for an average step. Levels above 1, which no flow model has, count as s / (1 + s), the share
    of the noise in the latent.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        self._above_one = max(sigmas) > 1
        levels = [self._share(sigma) for sigma in sigmas]
        self._mean_noise = _mean(abs(b - a) for a, b in pairwise(levels))
        inner = [level for level in levels if EDGE < level < 1 - EDGE]
        self._mean_odds = _mean(abs(_odds(b) - _odds(a)) for a, b in pairwise(inner))

    def share(self, start: float, end: float) -> float:
        """Length of the step between two noise levels; `UNSURE` where the run does not move."""
        if not self._mean_noise:
            return UNSURE
        start, end = self._share(start), self._share(end)
        noise = abs(end - start) / self._mean_noise
        if not self._mean_odds:
            return noise
        return (noise + abs(_odds(end) - _odds(start)) / self._mean_odds) / 2

    def _share(self, sigma: float) -> float:
        return sigma / (1 + sigma) if self._above_one else sigma


def _odds(share: float) -> float:
    """log((1 - share) / share), signal over noise."""
    inside = min(max(share, EDGE), 1 - EDGE)
    return math.log((1 - inside) / inside)


def _mean(values: Iterable[float]) -> float:
    """Of nothing: 0."""
    found = list(values)
    return sum(found) / len(found) if found else 0.0
