"""From a record of samples to points, and from points to the front of each method."""

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
WORST = 0.05


@dataclass(frozen=True)
class Quality:
    """Against one reference, over all pairs. identical: how many pictures are that."""

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
"""More is better, hence LPIPS with its sign turned."""


@dataclass(frozen=True)
class Point:
    """One variant.

    seconds, speedup: medians over pairs. memory: bytes held beyond the uncached run's.
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


def worst_mean(values: list[float]) -> float:
    """Mean of the lowest 5 %, at least one."""
    return statistics.mean(sorted(values)[: max(1, round(WORST * len(values)))])


def quality(records: list[dict[str, Any]]) -> Quality:
    psnr = [record["psnr"] for record in records]
    lpips = [record["lpips"] for record in records if "lpips" in record]
    return Quality(
        statistics.mean(psnr),
        worst_mean(psnr),
        statistics.mean(record["ssim"] for record in records),
        statistics.mean(lpips) if lpips else None,
        sum(value >= 100.0 for value in psnr),
    )


def busyness(journal: Journal) -> float:
    """Median of wall time over processor time: 1 on an idle machine, for one thread."""
    every = [journal.complete(name).values() for name in journal.samples]
    shares = [float(r["seconds"]) / float(r["cpu"]) for records in every for r in records]
    return statistics.median(shares)


def points(journal: Journal, clock: str = "seconds") -> list[Point]:
    """One for each variant that has samples, in the order of the list.

    clock: the time to go by, `seconds` on the wall or of the `cpu`.
    """
    base = {host: journal.complete(name) for host, name in UNCACHED.items()}
    found = []
    for variant in journal.header["variants"]:
        samples = journal.complete(variant["name"])
        if not samples:
            continue
        uncached = base[variant["host"]]
        found.append(
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
    return found


Curve = list[tuple[float, float]]
"""(speed-up, quality), from the slowest on."""


def front(curve: Curve) -> Curve:
    """The points that no other one beats in both, from the slowest on."""
    best: Curve = []
    for speed, value in sorted(curve, reverse=True):
        if not best or value > best[-1][1]:
            best.append((speed, value))
    return best[::-1]


def curves(found: list[Point], reference: str, measure: str = "mean") -> dict[str, Curve]:
    """All points of each method against `reference` that have the `measure`, by method."""
    by_method: dict[str, Curve] = {}
    for point in found:
        value = MEASURES[measure](point.against[reference])
        if not point.is_uncached and value is not None:
            by_method.setdefault(point.method, []).append((point.speedup, value))
    return {method: sorted(curve) for method, curve in by_method.items()}


def at_speed(curve: Curve, speed: float) -> tuple[float, bool] | None:
    """Quality of a front at a speed-up, linear in its logarithm; None beyond its fastest point.

    Second: whether the front begins above that speed; then its slowest point counts, which is
    faster still.
    """
    reached = front(curve)
    if not reached or speed > reached[-1][0]:
        return None
    if speed <= reached[0][0]:
        return reached[0][1], speed < reached[0][0]
    for (low, a), (high, b) in itertools.pairwise(reached):
        if low <= speed <= high:
            share = math.log(speed / low) / math.log(high / low)
            return a + share * (b - a), False
    raise AssertionError("a front has no gaps")
