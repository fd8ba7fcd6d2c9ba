"""How the error of a prediction grows with the distance to the values that it continues."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Growth = Callable[[float, Sequence[float]], float]
"""A level and those of the cached values, the newest last -> the size of the error at that level,
up to a factor that is measured during the run."""


def interpolation_growth(level: float, nodes: Sequence[float]) -> float:
    """Of a smooth trajectory: the product of the distances to the nodes, as for any interpolation
    (Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, II.3)."""
    return math.prod(abs(level - node) for node in nodes)


def random_walk_growth(level: float, nodes: Sequence[float]) -> float:
    """Of a trajectory that noise is added to between the steps: the square root of the distance to
    the newest node, as the standard deviation of a random walk.

    No older value tells where the noise leads, so that the distance to it does not count.
    """
    return math.sqrt(abs(level - nodes[-1]))
