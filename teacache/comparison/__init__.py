"""One model, many settings of the cache: sampled in turn, timed and compared with no cache."""

from .axes import Axis, Point, grid_points, parse_axis
from .runner import Host, Progress, Sample, Side, Sweep

__all__ = [
    "Axis",
    "Host",
    "Point",
    "Progress",
    "Sample",
    "Side",
    "Sweep",
    "grid_points",
    "parse_axis",
]
