"""One model, many settings of the cache: sampled in turn, timed and compared with no cache."""

from .axes import Axis, Point, grid_points, parse_axis
from .runner import (
    Comparison,
    RunProgress,
    Sample,
    SamplingBackend,
    StepListener,
    Variant,
    compare_with_uncached,
)

__all__ = [
    "Axis",
    "Comparison",
    "Point",
    "RunProgress",
    "Sample",
    "SamplingBackend",
    "StepListener",
    "Variant",
    "compare_with_uncached",
    "grid_points",
    "parse_axis",
]
