"""The polynomial that turns an indicator's change into the residual's, and how well it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..engine.policy import AccumulatedDistance
from ..report import Reason
from .recorder import Point

DEGREE = 4
LEAST_R2 = 0.5
"""A fit that explains less than half of the residual's variance is refused."""
LEAST_POINTS = 16
EFFECTS = (1.5, 2.0, 3.0)
"""Speed-ups for which a fit gives a threshold."""


@dataclass(frozen=True)
class Fit:
    """A fitted polynomial.

    Args:
        coefficients: a4 … a0, as `numpy.poly1d`.
        r2: share of the residual's variance that it explains.
        x_range: lowest and highest indicator change of the points.
        points: how many it was fitted to.
        refused: why it must not be used; empty if it may.
    """

    coefficients: tuple[float, ...]
    r2: float
    x_range: tuple[float, float]
    points: int
    refused: str = ""


def fit_polynomial(points: Sequence[Point]) -> Fit:
    """Least squares of degree 4 from indicator to residual (arXiv 2411.19108, eq. 7, with the
    residual instead of the model's output: it is what a skip reuses)."""
    x = np.array([point.indicator for point in points])
    y = np.array([point.residual for point in points])
    usable = np.isfinite(x) & np.isfinite(y)
    x, y = x[usable], y[usable]
    if len(x) < LEAST_POINTS:
        reason = f"{len(x)} points are too few for a fit ({LEAST_POINTS} are needed)"
        return Fit((), 0.0, (0.0, 0.0), len(x), f"{reason}: give more steps or prompts")
    low, high = float(x.min()), float(x.max())
    spread = float(((y - y.mean()) ** 2).sum())
    if high - low <= 1e-9 * max(abs(high), 1e-9) or not spread:
        reason = "the indicator or the residual does not change"
        return Fit((), 0.0, (low, high), len(x), f"{reason}: there is nothing to fit")
    # fitted on 0 … 1, where a quartic is well conditioned, then written in the indicator itself
    scaled = np.polynomial.Polynomial.fit(x, y, DEGREE, domain=[low, high], window=[0.0, 1.0])
    r2 = 1.0 - float(((y - scaled(x)) ** 2).sum()) / spread
    plain = scaled.convert().coef
    coefficients = tuple(float(c) for c in reversed(np.pad(plain, (0, DEGREE + 1 - len(plain)))))
    refused = "" if r2 >= LEAST_R2 else f"R² {r2:.2f} is below {LEAST_R2:g}"
    return Fit(coefficients, r2, (low, high), len(x), refused)


def thresholds_for(
    distances: Sequence[Sequence[float]], steps: int, speedups: Sequence[float] = EFFECTS
) -> dict[float, float]:
    """For each speed-up the threshold under which about steps / speed-up steps are computed.

    Args:
        distances: of each recorded run, one per step from the second one on.
    """
    thresholds: dict[float, float] = {}
    total = max((sum(run) for run in distances), default=0.0)
    if not total > 0:
        return thresholds
    for speedup in speedups:
        low, high = 0.0, total
        for _ in range(40):
            middle = (low + high) / 2
            computed = float(np.mean([_computed(run, steps, middle) for run in distances]))
            low, high = (low, middle) if computed < steps / speedup else (middle, high)
        thresholds[speedup] = (low + high) / 2
    return thresholds


def _computed(distances: Sequence[float], steps: int, threshold: float) -> int:
    """How many steps of a run TeaCache's rule computes."""
    policy = AccumulatedDistance(threshold=max(threshold, 1e-30), steps=steps)
    accumulated, skipped, count = 0.0, 0, 1
    for step, distance in enumerate(distances, start=1):
        accumulated += distance
        skip = (
            policy.fixed_reason(step) is None
            and policy.compare(accumulated, skipped) is Reason.UNDER_THRESHOLD
        )
        accumulated, skipped = (accumulated, skipped + 1) if skip else (0.0, 0)
        count += not skip
    return count + steps - 1 - len(distances)
