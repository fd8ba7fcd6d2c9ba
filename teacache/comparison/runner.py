"""Sampling every point in turn: warm-up, interleaved repeats, similarity, time left."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ConfigError, ExecutionError, UserError
from .axes import Point

if TYPE_CHECKING:
    from torch import Tensor

REFUSALS = (UserError, ConfigError, ExecutionError)
"""What a point may raise: it is left out, and the sweep goes on."""
REFERENCE = "uncached"


@dataclass(frozen=True)
class Sample:
    """One run of one side.

    pictures: [B, H, W, C] in 0 to 1, on the CPU. seconds: what is compared. runs: a
    `RunReport.to_json()` for each sampling run that the cache watched.
    """

    pictures: Tensor
    seconds: float
    runs: list[dict[str, Any]] = field(default_factory=list)


class Host(Protocol):
    """Whatever samples: a workflow, a ComfyUI model, a diffusers pipeline."""

    def check(self, point: Point) -> None:
        """Raises one of `REFUSALS` if it is clear without sampling that the point cannot run."""

    def sample(
        self, point: Point | None, tell: Callable[[float], None], short: bool = False
    ) -> Sample:
        """Samples with the settings of `point`, without the cache if it is None.

        tell: called with the share done, 0 to 1. short: a few steps only, to warm up. Raises
        one of `REFUSALS` when it cannot.
        """


@dataclass(eq=False)
class Side:
    """The reference (point None) or a point, and what its runs gave; `error` if it cannot run.

    similarity: as `metrics.similarity` gives it, None for the reference. thumbnail: [H, W, C], its
    middle picture. repeatable: whether every repeat gave the same pictures.
    """

    point: Point | None
    seconds: list[float] = field(default_factory=list)
    runs: list[list[dict[str, Any]]] = field(default_factory=list)
    error: str = ""
    similarity: dict[str, Any] | None = None
    thumbnail: Tensor | None = None
    repeatable: bool = True
    wall: float | None = None
    _mark: str = ""

    @property
    def label(self) -> str:
        return REFERENCE if self.point is None else self.point.label

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def typical_runs(self) -> list[dict[str, Any]]:
        """The reports of the repeat nearest the median."""
        if not self.runs:
            return []
        nearest = min(range(len(self.seconds)), key=lambda i: abs(self.seconds[i] - self.median))
        return self.runs[nearest]

    def add(self, sample: Sample) -> bool:
        """Takes a run's figures; whether it was the first."""
        from ..digest import digest

        mark = digest((sample.pictures.clamp(0, 1) * 255).round())
        first = not self.seconds
        self.repeatable &= first or mark == self._mark
        self._mark = mark
        self.seconds.append(sample.seconds)
        self.runs.append(sample.runs)
        if first:
            self.thumbnail = sample.pictures[len(sample.pictures) // 2]
        return first


@dataclass(frozen=True)
class Progress:
    """Run `run` of `runs` (from 1; 0 is the warm-up), its share, and seconds left for all."""

    run: int
    runs: int
    label: str
    share: float
    seconds_left: float | None

    @property
    def done(self) -> float:
        """Of `runs`."""
        return self.run - 1 + self.share if self.run else 0.0

    def __str__(self) -> str:
        where = f"run {self.run} of {self.runs}: {self.label}" if self.run else "warming up"
        return where if self.seconds_left is None else f"{where}, {clock(self.seconds_left)} left"


class Sweep:
    """The reference and every point, sampled `repeats` times each, in turn.

    Every round samples the reference and each point once, every second one backwards, so that a
    machine that slows down or speeds up meanwhile favours none.
    """

    def __init__(self, points: Sequence[Point], repeats: int) -> None:
        self.repeats = repeats
        self.reference = Side(None)
        self.sides = [Side(point) for point in points]
        self._begun = 0
        self._perceptual = True

    @property
    def everyone(self) -> list[Side]:
        return [self.reference, *self.sides]

    def check(self, host: Host) -> None:
        """Finds the points that cannot run; raises what the first does if none of them can."""
        refusals: list[Exception] = []
        for side in self.sides:
            assert side.point is not None
            try:
                host.check(side.point)
            except REFUSALS as error:
                side.error = str(error)
                refusals.append(error)
        if len(refusals) == len(self.sides):
            raise refusals[0]

    def run(
        self,
        host: Host,
        tell: Callable[[Progress], None],
        keep: Callable[[Side, Tensor], None],
    ) -> None:
        """Samples everything; what is done stays in the sides however this ends.

        tell: hears of progress. keep: is given the pictures [B, H, W, C] of each side's first
        run. Raises what the reference raises, or the first point if none of them can run.
        """
        self._warm_up(host, tell)
        reference: Tensor | None = None
        for repeat in range(self.repeats):
            order = self.everyone
            for side in reversed(order) if repeat % 2 else order:
                if side.error:
                    continue
                sample = self._sample(host, side, tell)
                if sample is None or not side.add(sample):
                    continue
                if side.point is None:
                    reference = sample.pictures
                elif reference is not None:
                    self._compare(side, reference, sample.pictures)
                if not side.error:
                    keep(side, sample.pictures)

    def _warm_up(self, host: Host, tell: Callable[[Progress], None]) -> None:
        """A short run without the cache, and one with it: of the first point that can run."""

        def advance(share: float) -> None:
            tell(Progress(0, self._runs(), "", share, None))

        advance(0.0)
        host.sample(None, advance, short=True)
        refusals: list[Exception] = []
        for side in self.sides:
            if side.error:
                continue
            try:
                host.sample(side.point, advance, short=True)
                return
            except REFUSALS as error:
                side.error = str(error)
                refusals.append(error)
        raise refusals[0]

    def _sample(self, host: Host, side: Side, tell: Callable[[Progress], None]) -> Sample | None:
        self._begun += 1
        started, last = time.perf_counter(), 0.0

        def advance(share: float) -> None:
            nonlocal last
            last = max(last, min(share, 1.0))
            left = self._left(side, last, time.perf_counter() - started)
            tell(Progress(self._begun, self._runs(), side.label, last, left))

        advance(0.0)
        try:
            sample = host.sample(side.point, advance)
        except REFUSALS as error:
            if side.point is None:
                raise
            side.error = str(error)
            return None
        side.wall = time.perf_counter() - started
        return sample

    def _compare(self, side: Side, reference: Tensor, pictures: Tensor) -> None:
        """How alike a side's pictures are to the reference's; an error where none can be told."""
        from .metrics import similarity

        if reference.shape != pictures.shape:
            shapes = f"{tuple(pictures.shape)}, without the cache {tuple(reference.shape)}"
            side.error = f"its pictures came out in another shape: {shapes}"
            return
        side.similarity = similarity(reference, pictures, self._perceptual)
        self._perceptual = side.similarity["lpips"] is not None  # else it is not at hand

    def _runs(self) -> int:
        """Runs in all: those begun, the current one among them, and what is still to come."""
        pending = sum(self.repeats - len(s.seconds) for s in self.everyone if not s.error)
        return max(0, self._begun - 1) + pending

    def _left(self, side: Side, share: float, elapsed: float) -> float | None:
        """Seconds until everything is sampled: each side takes what it took, or the typical time.

        None while no time is known.
        """
        known = [other.wall for other in self.everyone if other.wall is not None]
        whole = elapsed / share if share > 0.05 else None
        if whole is not None:
            known.append(whole)
        if not known:
            return None
        typical = statistics.median(known)
        current = whole or side.wall or typical
        left = max(0.0, current - elapsed)
        for other in self.everyone:
            if other.error:
                continue
            pending = self.repeats - len(other.seconds) - (other is side)
            own = current if other is side else other.wall
            left += pending * (typical if own is None else own)
        return left


def clock(seconds: float) -> str:
    """`0:42`, `12:05`, `1:02:05`."""
    whole = round(seconds)
    minutes = f"{whole // 60 % 60:02}:{whole % 60:02}"
    return f"{whole // 3600}:{minutes}" if whole >= 3600 else minutes.removeprefix("0")
