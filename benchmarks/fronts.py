"""Statistics of a comparison: points from its journal, and each method's Pareto front."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.journal import Journal
from benchmarks.testbeds import UNCACHED

REFERENCES = ("uncached", "converged")
WORST_FRACTION = 0.05
"""Fraction of pairs that "worst" figures are the mean of."""
MAX_IDENTICAL = 0.05
"""Fraction of pictures that may equal the reference: PSNR has no value there, and what stands for
it must not carry a mean."""


@dataclass(frozen=True)
class Quality:
    """Similarity of a variant's pictures to one reference.

    Args:
        mean, worst: PSNR in dB, over all pairs and over the worst 5 % of them.
        ssim, lpips: means over all pairs; `lpips` is None if it was not measured.
        identical: number of pictures that equal the reference.
    """

    mean: float
    worst: float
    ssim: float
    lpips: float | None
    identical: int


MEASURES: dict[str, Callable[[Quality], float | None]] = {
    "mean": lambda quality: quality.mean,
    "worst": lambda quality: quality.worst,
    "ssim": lambda quality: quality.ssim,
    "lpips": lambda quality: None if quality.lpips is None else -quality.lpips,
}
"""By name; higher is better, so LPIPS is negated."""


@dataclass(frozen=True)
class Point:
    """The figures of one variant.

    Args:
        name, group, method, setting, host, steps: as in `benchmarks.variants.Variant`.
        pairs: number of pairs.
        computed: mean number of model evaluations that ran the blocks.
        seconds, speedup: medians over the pairs.
        memory: bytes allocated beyond those of the uncached run.
        against: similarity to each reference.
    """

    name: str
    group: str
    method: str
    setting: str
    host: str
    steps: int
    pairs: int
    computed: float
    seconds: float
    speedup: float
    memory: int
    against: dict[str, Quality]

    @property
    def is_uncached(self) -> bool:
        return self.method in UNCACHED.values()


def mean_of_worst(values: list[float]) -> float:
    """Mean of the lowest `WORST_FRACTION` of the values, at least one of them."""
    return statistics.mean(sorted(values)[: max(1, round(WORST_FRACTION * len(values)))])


def quality(records: list[dict[str, Any]]) -> Quality:
    psnr = [record["psnr"] for record in records]
    lpips = [record["lpips"] for record in records if "lpips" in record]
    return Quality(
        statistics.mean(psnr),
        mean_of_worst(psnr),
        statistics.mean(record["ssim"] for record in records),
        statistics.mean(lpips) if lpips else None,
        sum(value >= 100.0 for value in psnr),
    )


def wall_to_cpu_ratio(journal: Journal) -> float:
    """Median over all samples; 1 for one thread on an otherwise idle machine."""
    samples = [journal.complete(name).values() for name in journal.samples]
    ratios = [float(r["seconds"]) / float(r["cpu"]) for records in samples for r in records]
    return statistics.median(ratios)


def points(journal: Journal, clock: str = "seconds") -> list[Point]:
    """One point for each variant that has samples, in the order of the journal's header.

    Args:
        journal: of the comparison.
        clock: the time to use: `seconds` (wall clock) or `cpu` (processor time).
    """
    base = {host: journal.complete(name) for host, name in UNCACHED.items()}
    result = []
    for variant in journal.header["variants"]:
        samples = journal.complete(variant["name"])
        if not samples:
            continue
        uncached = base[variant["host"]]
        result.append(
            Point(
                **variant,
                pairs=len(samples),
                computed=statistics.mean(record["computed"] for record in samples.values()),
                seconds=statistics.median(record[clock] for record in samples.values()),
                speedup=statistics.median(
                    uncached[pair][clock] / record[clock] for pair, record in samples.items()
                ),
                memory=journal.memory.get(variant["name"], 0),
                against={
                    reference: quality([record[reference] for record in samples.values()])
                    for reference in REFERENCES
                },
            )
        )
    return result


Curve = list[tuple[float, float]]
"""(speed-up, quality) of points, by ascending speed-up."""


def pareto_front(curve: Curve) -> Curve:
    """The points that no other point beats in speed-up and quality."""
    best: Curve = []
    for speed, value in sorted(curve, reverse=True):
        if not best or value > best[-1][1]:
            best.append((speed, value))
    return best[::-1]


def curves(points: list[Point], reference: str, measure: str = "mean") -> dict[str, Curve]:
    """The curve of each cached method, by method, without points above `MAX_IDENTICAL`.

    Args:
        points: of all variants.
        reference: one of `REFERENCES`.
        measure: one of `MEASURES`; points without it are left out.
    """
    by_method: dict[str, Curve] = {}
    for point in points:
        against = point.against[reference]
        value = MEASURES[measure](against)
        if point.is_uncached or against.identical > MAX_IDENTICAL * point.pairs:
            continue
        if value is not None:
            by_method.setdefault(point.method, []).append((point.speedup, value))
    return {method: sorted(curve) for method, curve in by_method.items()}


def quality_at_speedup(curve: Curve, speed: float) -> tuple[float, bool] | None:
    """Quality of a method at a speed-up, by linear interpolation over its logarithm.

    Returns:
        The quality on the Pareto front, and whether it is that of the front's slowest point,
        which is faster than `speed`; None if `speed` is beyond the fastest point.
    """
    front = pareto_front(curve)
    if not front or speed > front[-1][0]:
        return None
    if speed <= front[0][0]:
        return front[0][1], speed < front[0][0]
    for (low, a), (high, b) in itertools.pairwise(front):
        if low <= speed <= high:
            weight = math.log(speed / low) / math.log(high / low)
            return a + weight * (b - a), False
    raise AssertionError("a front has no gaps")
