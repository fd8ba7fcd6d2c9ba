"""Sampling a reference and its variants in turn: warm-up, interleaved repeats, metrics."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ConfigError, ExecutionError, UserError
from ..progress import Progress, TimeLeft
from .axes import Point

if TYPE_CHECKING:
    from torch import Tensor

REFUSALS = (UserError, ConfigError, ExecutionError)
"""What a variant may raise: it is left out, and the comparison continues."""
REFERENCE = "uncached"
WARM_UP = "warming up"
WARM_UP_STEPS = 3
"""Steps of a sampling run that only warms up."""
INVALID_PICTURES = "its pictures hold values that are no numbers (NaN or infinity)"
StepListener = Callable[[float, float], None]
"""Called with the steps done and the steps in all of a running sampling run."""


@dataclass(frozen=True)
class Sample:
    """The result of one sampling run.

    Args:
        pictures: [B, H, W, C] in 0 to 1, on the CPU.
        seconds: the time that is compared.
        runs: a `RunReport.to_json()` for each run of a model that the cache watched.
        notes: sentences for the user, such as an input that was not used.
    """

    pictures: Tensor
    seconds: float
    runs: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class SamplingBackend(Protocol):
    """Something that samples: a workflow, a ComfyUI model, a diffusers pipeline."""

    def check(self, point: Point) -> None:
        """Raise one of `REFUSALS` if it is clear without sampling that `point` cannot run."""

    def sample(
        self,
        point: Point | None,
        on_step: StepListener,
        short: bool = False,
        steps: int | None = None,
    ) -> Sample:
        """Sample with the settings of `point`, without the cache if it is None.

        Args:
            short: sample a few steps only, to warm up.
            steps: sampling steps; None for those that are configured.

        Raises:
            UserError, ConfigError, ExecutionError: it cannot.
        """


@dataclass(eq=False)
class Variant:
    """The reference, a point, or fewer steps without the cache, and the results of its runs.

    Args:
        point: None without the cache.
        steps: sampling steps; None for those that are configured.
        runs: the reports of each repeat, as in `Sample`.
        failure: why it cannot run.
        metrics: of its pictures against the reference's, as `metrics.picture_metrics` gives them;
            None for the reference.
        picture: [H, W, C], the middle one of the first run.
        repeatable: whether every repeat gave the same pictures, to 8 bits a channel.
        process: the one that sampled it, where there are several.
    """

    point: Point | None
    steps: int | None = None
    seconds: list[float] = field(default_factory=list)
    runs: list[list[dict[str, Any]]] = field(default_factory=list)
    failure: Exception | None = None
    metrics: dict[str, Any] | None = None
    picture: Tensor | None = None
    notes: list[str] = field(default_factory=list)
    repeatable: bool = True
    process: str = ""
    _digest: str = ""

    @property
    def label(self) -> str:
        if self.steps is not None:
            return f"{self.steps} steps, {REFERENCE}"
        return REFERENCE if self.point is None else self.point.label

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def steps_in_its_time(self) -> int | None:
        """As many steps without the cache take as long as this run; None where that is not known.

        Computed evaluations over all evaluations, of the run's steps. Only where one sampling run
        makes the picture, and skipped something.
        """
        if len(self.typical_runs) != 1:
            return None
        (run,) = self.typical_runs
        if not run["skipped"]:
            return None
        share: float = run["computed"] / run["evaluations"]
        return max(1, round(int(run["steps"]) * share))

    @property
    def typical_runs(self) -> list[dict[str, Any]]:
        """The reports of the repeat whose time is nearest the median."""
        if not self.runs:
            return []
        nearest = min(range(len(self.seconds)), key=lambda i: abs(self.seconds[i] - self.median))
        return self.runs[nearest]

    def add(self, sample: Sample) -> bool:
        """Record a run; return whether it was the first."""
        from ..digest import digest

        pictures = digest((sample.pictures.clamp(0, 1) * 255).round())
        first = not self.seconds
        self.repeatable &= first or pictures == self._digest
        self._digest = pictures
        self.seconds.append(sample.seconds)
        self.runs.append(sample.runs)
        if first:
            self.picture = sample.pictures[len(sample.pictures) // 2]
            self.notes = sample.notes
        return first

    def merge(self, other: Variant) -> None:
        """Take over the runs of the same variant in another process."""
        if not self.seconds:
            self.metrics, self.picture, self.notes = other.metrics, other.picture, other.notes
            self._digest = other._digest
        self.repeatable &= other.repeatable and other._digest in ("", self._digest)
        self.seconds += other.seconds
        self.runs += other.runs
        self.failure, self.process = other.failure, other.process


@dataclass(frozen=True)
class RunProgress(Progress):
    """Progress of a comparison, in runs.

    Args:
        variant: the label of what is being sampled; empty during the warm-up.
        step, steps: of the current run; 0 of 0 before its first step.
    """

    variant: str = ""
    step: float = 0.0
    steps: float = 0.0


ProgressListener = Callable[[RunProgress], None]
PicturesListener = Callable[[Variant, "Tensor"], None]
"""Called with a variant and the pictures [B, H, W, C] of its first run."""


class Comparison:
    """The reference and every point, sampled `repeats` times each, in turn.

    With `fewer_steps`, what takes as long without the cache is sampled as well: for each point as
    many steps as it computed. Every round samples the reference and each point once, every second
    one backwards, so that a machine that slows down or speeds up meanwhile favours none.

    Args:
        fewer_steps: whether to sample what takes as long without the cache.
        with_lpips: whether LPIPS is measured, where its package and weights are at hand.
    """

    def __init__(
        self,
        points: Sequence[Point],
        repeats: int,
        fewer_steps: bool = False,
        with_lpips: bool = True,
    ) -> None:
        self.repeats = repeats
        self.reference = Variant(None)
        self.variants = [Variant(point) for point in points]
        self.fewer: list[Variant] = []
        """Without the cache, in fewer steps; known after the first round."""
        self.uncached_seconds: dict[str, list[float]] = {}
        """Times of the reference by process, where there are several."""
        self._fewer_steps = fewer_steps
        self._started_runs = 0
        self._with_lpips = with_lpips
        self._time_left = TimeLeft()
        self._reference_pictures: Tensor | None = None

    @property
    def all_variants(self) -> list[Variant]:
        """The reference first, fewer steps last."""
        return [self.reference, *self.variants, *self.fewer]

    def check(self, backend: SamplingBackend) -> None:
        """Mark the points that cannot run; raise the first one's error if none can."""
        self.refuse(refusals(backend, [variant.point for variant in self.variants]))

    def refuse(self, failures: Sequence[Exception | None]) -> None:
        """Mark the points that cannot run, by `refusals`; raise the first one if none can."""
        for variant, failure in zip(self.variants, failures, strict=True):
            variant.failure = failure
        self.raise_if_none_can_run()

    def run(
        self,
        backend: SamplingBackend,
        on_progress: ProgressListener,
        on_pictures: PicturesListener,
    ) -> None:
        """Sample everything; what is done stays in the variants however this ends.

        Raises what the reference raises, or the first point if none of them can warm up.
        """
        self.warm_up(backend, on_progress)
        self.sample_in_turn(self.all_variants, backend, on_progress, on_pictures)
        self.add_fewer_steps()
        self.sample_in_turn(self.fewer, backend, on_progress, on_pictures)
        for repeat in range(1, self.repeats):
            order = self.all_variants[:: -1 if repeat % 2 else 1]
            self.sample_in_turn(order, backend, on_progress, on_pictures)

    def sample_in_turn(
        self,
        variants: Iterable[Variant],
        backend: SamplingBackend,
        on_progress: ProgressListener,
        on_pictures: PicturesListener,
    ) -> None:
        """Sample each variant once more, and compare what is new with the reference."""
        for variant in variants:
            if variant.failure:
                continue
            sample = self._sample(backend, variant, on_progress)
            if sample is None or not variant.add(sample):
                continue
            if variant is self.reference:
                self._reference_pictures = sample.pictures
                if not sample.pictures.isfinite().all():
                    raise ExecutionError(f"without the cache: {INVALID_PICTURES}")
            elif self._reference_pictures is not None:
                self._measure(variant, self._reference_pictures, sample.pictures)
            if not variant.failure:
                on_pictures(variant, sample.pictures)

    def add_fewer_steps(self) -> None:
        """Add what takes as long without the cache as the points so far, if it is wanted."""
        if self._fewer_steps:
            known = (variant.steps_in_its_time for variant in self.variants)
            counts = sorted({count for count in known if count is not None}, reverse=True)
            self.fewer = [Variant(None, count) for count in counts]

    def speedup(self, variant: Variant) -> float:
        """The time without the cache, in the same process, over that of the variant."""
        uncached = self.uncached_seconds.get(variant.process, self.reference.seconds)
        return statistics.median(uncached) / variant.median

    def warm_up(self, backend: SamplingBackend, on_progress: ProgressListener) -> None:
        """A short run without the cache, and one with it: of the first point that can run."""

        def report(step: float, steps: float) -> None:
            on_progress(RunProgress(0.0, self._runs(), WARM_UP))

        report(0.0, 0.0)
        backend.sample(None, report, short=True)
        for variant in self.variants:
            if variant.failure:
                continue
            try:
                backend.sample(variant.point, report, short=True)
                return
            except REFUSALS as error:
                variant.failure = error
        self.raise_if_none_can_run()

    def raise_if_none_can_run(self) -> None:
        """Raise the first point's error if every point has one."""
        failures = [variant.failure for variant in self.variants]
        if failures and failures[0] is not None and None not in failures:
            raise failures[0]

    def _sample(
        self, backend: SamplingBackend, variant: Variant, on_progress: ProgressListener
    ) -> Sample | None:
        self._started_runs += 1
        run, share = self._started_runs, 0.0

        def report(step: float, steps: float) -> None:
            nonlocal share
            share = max(share, min(step / steps, 1.0) if steps else 0.0)
            done, runs = run - 1 + share, self._runs()
            stage = f"run {run} of {runs}: {variant.label}"
            left = self._time_left(done, runs)
            on_progress(RunProgress(done, runs, stage, left, variant.label, step, steps))

        report(0.0, 0.0)
        try:
            return backend.sample(variant.point, report, steps=variant.steps)
        except REFUSALS as error:
            if variant is self.reference:
                raise
            variant.failure = error
            return None

    def _measure(self, variant: Variant, reference: Tensor, pictures: Tensor) -> None:
        """Compare a variant's pictures with the reference's; a failure where they cannot be."""
        from .metrics import picture_metrics

        if not pictures.isfinite().all():
            variant.failure = ExecutionError(INVALID_PICTURES)
            return
        if reference.shape != pictures.shape:
            shapes = f"{tuple(pictures.shape)}, without the cache {tuple(reference.shape)}"
            variant.failure = ExecutionError(f"its pictures came out in another shape: {shapes}")
            return
        variant.metrics = picture_metrics(reference, pictures, self._with_lpips)
        self._with_lpips = variant.metrics["lpips"] is not None  # else it is not at hand

    def _runs(self) -> int:
        """Runs in all: those started, the current one among them, and what is still to come."""
        variants = [variant for variant in self.all_variants if not variant.failure]
        pending = sum(self.repeats - len(variant.seconds) for variant in variants)
        return max(0, self._started_runs - 1) + pending


def refusals(backend: SamplingBackend, points: Iterable[Point | None]) -> list[Exception | None]:
    """Of each point, why it cannot run, if that is clear without sampling."""
    found: list[Exception | None] = []
    for point in points:
        try:
            if point is not None:
                backend.check(point)
            found.append(None)
        except REFUSALS as error:
            found.append(error)
    return found


def compare_with_uncached(
    backend: SamplingBackend, repeats: int, on_progress: ProgressListener, with_lpips: bool = True
) -> tuple[Comparison, list[Tensor]]:
    """The cache as the backend has it configured, compared with no cache.

    Returns:
        The comparison, of one variant, and the pictures of the reference and of the variant.

    Raises:
        UserError, ConfigError, ExecutionError: one of the two cannot run.
    """
    comparison = Comparison([Point(())], repeats, with_lpips=with_lpips)
    pictures: list[Tensor] = []
    comparison.run(backend, on_progress, lambda variant, first: pictures.append(first))
    (variant,) = comparison.variants
    if variant.failure:
        raise variant.failure
    return comparison, pictures
