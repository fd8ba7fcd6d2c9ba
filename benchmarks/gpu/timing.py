"""Times of the steps of sampling runs on a device, and ratios between ways to sample."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from benchmarks.costs import DECISION_METHODS
from benchmarks.gpu.building import sigmas_of
from benchmarks.sampling import sample
from benchmarks.testbeds import COMFYUI, DIFFUSERS, Testbed
from teacache.engine.device import Clock, Mark
from teacache.report import RunReport

FIRST_COUNTED = 3
"""The first step whose time counts: before it nothing can be skipped."""
WARM_UP_STEPS = 5
"""Of the runs that are not counted: enough for a skip."""

Enabled = tuple[Any, Callable[[], RunReport | None]]
"""(the patcher or pipeline to sample with, what gives the report of its last run)."""
Way = Callable[[Testbed], AbstractContextManager[Enabled]]
"""A way to sample: enables a cache on the testbed, or none."""


def host_of(testbed: Testbed) -> str:
    """The host that a testbed of `benchmarks.gpu.building` exists on."""
    return DIFFUSERS if testbed.patcher is None else COMFYUI


def device_of(testbed: Testbed) -> torch.device:
    """Where its model is."""
    module = next(iter(testbed.middle_layers.values()))
    return next(module.parameters()).device


@dataclass
class Steps:
    """One sampling run.

    Args:
        seconds: of each step, from the end of the one before to its own; the first one's from the
            call on.
        computed: whether the model's middle block ran in it.
        decision: seconds of measuring and deciding in it.
        total: of the whole call.
        peak: most bytes of the device's memory that were in use; None where it is not known.
        report: of our cache.
        finite: whether what was sampled is.
    """

    seconds: list[float]
    computed: list[bool]
    decision: list[float]
    total: float
    peak: int | None
    report: RunReport | None
    finite: bool


class PeakMemory:
    """The most memory of a device that tensors have occupied since this was made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device if device.type == "cuda" else None
        if self._device is not None:
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)

    def read(self) -> int | None:
        """Bytes; None where PyTorch keeps no count."""
        return None if self._device is None else torch.cuda.max_memory_allocated(self._device)


class StepClock:
    """Marks the ends of steps, and whether the model ran in each."""

    def __init__(self, device: torch.device) -> None:
        self._clock = Clock(device)
        self._ran = False
        self._marks = [self._clock.mark()]
        self._spans: list[list[tuple[Mark, Mark]]] = [[]]
        self.computed: list[bool] = []

    @contextmanager
    def watching(self, layer: nn.Module | None) -> Iterator[None]:
        """Notes whether `layer` runs; None where that is not to be noted."""
        with ExitStack() as stack:
            if layer is not None:
                stack.callback(layer.register_forward_pre_hook(self._note).remove)
            for owner, name in DECISION_METHODS:
                stack.enter_context(patch.object(owner, name, self._timed(owner, name)))
            yield

    def end_step(self, _: int) -> None:
        """A step has ended."""
        self._marks.append(self._clock.mark())
        self._spans.append([])
        self.computed.append(self._ran)
        self._ran = False

    def resolve(self) -> tuple[list[float], list[float]]:
        """Seconds of each step, and of the decision in it."""
        steps = self._clock.resolve([*zip(self._marks[:-1], self._marks[1:], strict=True)])
        decisions = [sum(self._clock.resolve(spans) or [0.0]) for spans in self._spans[:-1]]
        return steps or [], decisions

    def _note(self, *_: Any) -> None:
        self._ran = True

    def _timed(self, owner: type, name: str) -> Callable[..., Any]:
        method = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            start = self._clock.mark()
            result = method(*args, **kwargs)
            self._spans[-1].append((start, self._clock.mark()))
            return result

        return call


def run(testbed: Testbed, enabled: Enabled, steps: int, compiled: bool = False) -> Steps:
    """Sample once, and take the times.

    Args:
        compiled: whether the model's blocks are: no hook is set on a layer within them then.
    """
    device, host = device_of(testbed), host_of(testbed)
    target, report_of = enabled
    sigmas, pairs = sigmas_of(testbed, steps), testbed.test_pairs(1)
    memory, whole, clock = PeakMemory(device), Clock(device), StepClock(device)
    start = whole.mark()
    with clock.watching(None if compiled else testbed.middle_layers[host]):
        made = sample(testbed, host, target, pairs, sigmas, after_step=clock.end_step)
    total = whole.resolve([(start, whole.mark())]) or [made.seconds]
    seconds, decision = clock.resolve()
    report = report_of()
    computed = _computed(report, steps) if compiled else clock.computed
    finite = bool(made.latents.isfinite().all())
    return Steps(seconds, computed, decision, total[0], memory.read(), report, finite)


def _computed(report: RunReport | None, steps: int) -> list[bool]:
    if report is None:
        return [True] * steps
    return [not record.skipped for record in report.records]


@dataclass
class Series:
    """Times of one way to sample, with an entry for each repeat.

    Args:
        computed, skipped: seconds of the median step of that kind.
        decision: seconds of deciding in the median computed step.
        total: seconds of the call. peak: bytes.
        pattern: `c` for each computed step and `s` for each skipped one.
        held: most bytes that our cache held.
        finite: whether everything that was sampled is.
    """

    computed: list[float] = field(default_factory=list)
    skipped: list[float] = field(default_factory=list)
    decision: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    peak: list[int] = field(default_factory=list)
    pattern: str = ""
    held: int = 0
    finite: bool = True

    def add(self, made: Steps) -> None:
        counted = range(FIRST_COUNTED, len(made.seconds) - 1)
        for kind, found in ((True, self.computed), (False, self.skipped)):
            times = [made.seconds[step] for step in counted if made.computed[step] is kind]
            if times:
                found.append(statistics.median(times))
        deciding = [made.decision[step] for step in counted if made.computed[step]]
        if deciding:
            self.decision.append(statistics.median(deciding))
        self.total.append(made.total)
        if made.peak is not None:
            self.peak.append(made.peak)
        self.pattern = "".join("c" if each else "s" for each in made.computed)
        self.finite = self.finite and made.finite
        if made.report is not None:
            self.held = max(self.held, made.report.bytes_held)

    @property
    def skipped_share(self) -> float:
        return self.pattern.count("s") / max(len(self.pattern), 1)


def measure(
    testbed: Testbed,
    ways: Mapping[str, Way],
    steps: int,
    repeats: int,
    compiled: Sequence[str] = (),
) -> dict[str, Series]:
    """Time several ways to sample: one after another in random order, so often as `repeats` says,
    after a short run of each that is not counted.

    Args:
        compiled: names of the ways whose model is compiled.
    """
    series = {name: Series() for name in ways}
    for repeat in range(repeats + 1):
        for name in random.Random(repeat).sample(list(ways), len(ways)):
            with ways[name](testbed) as enabled:
                made = run(testbed, enabled, steps if repeat else WARM_UP_STEPS, name in compiled)
            if repeat:
                series[name].add(made)
    return series


def plain(testbed: Testbed) -> AbstractContextManager[Enabled]:
    """Without a cache."""
    target = testbed.pipe if testbed.patcher is None else testbed.patcher
    return nullcontext((target, lambda: None))


def figures(series: Mapping[str, Series], base: str) -> dict[str, dict[str, Any]]:
    """What is written of each way: medians over the repeats, ratios within each.

    Args:
        base: name of the way without a cache.

    Returns:
        For each way `step`, `skip`, `decision` and `total` (seconds), `skipped` (share of the
        steps), `gain` over `base`, `limit` of the gain, 1 / (1 - s (1 - f)) for a share s of
        skipped steps that cost the fraction f of a full one, `peak` and `held` (bytes), `pattern`
        and `finite`. What was not measured is None.
    """
    full, plain_total = series[base].computed, series[base].total
    rows: dict[str, dict[str, Any]] = {}
    for name, each in series.items():
        gains = [before / now for before, now in zip(plain_total, each.total, strict=True)]
        shares = [
            skip / step for skip, step in zip(each.skipped, full, strict=False)
        ]  # none without a skip
        limits = [1 / (1 - each.skipped_share * (1 - share)) for share in shares]
        rows[name] = {
            "step": _median(each.computed),
            "skip": _median(each.skipped),
            "decision": _median(each.decision) if each.held else None,
            "total": _median(each.total),
            "skipped": each.skipped_share,
            "gain": _median(gains),
            "limit": _median(limits),
            "peak": max(each.peak, default=None),
            "held": each.held or None,
            "pattern": each.pattern,
            "finite": each.finite,
        }
    return rows


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
