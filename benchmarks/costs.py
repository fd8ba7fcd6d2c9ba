"""Time of a skipped step and of a decision, compared with the rest of the model.

    python -m benchmarks.costs [--repeats 12] [--threads 1] [--out FILE.md]

After a warm-up, each repeat samples 50 steps by every variant, in random order. The time of a step
is that of the guider's prediction, measured by a wrapper. The median steps of the variants are
compared within each repeat; figures are the median over the repeats, with the lowest and the
highest. The decision is also timed by itself. The floor is the same model with its blocks replaced
by one that returns its inputs: embedders, final layer and ComfyUI's overhead. It is measured with
and without the indicator as TeaCache defines it, read and compared for both branches at once. All
is repeated on a model of full width whose blocks do almost nothing (`benchmarks.wide`).
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.sampling import sample
from benchmarks.testbeds import COMFYUI, STEPS, Testbed, load
from benchmarks.wide import wide_testbed
from teacache.config import TeaCacheConfig
from teacache.engine.forward import PredictionForward, StackForward
from teacache.engine.regions import relative_change
from teacache.families.comfyui.modulation import joint_block
from teacache.families.streams import BlockArguments
from teacache.files import write_atomically
from teacache.hosts.comfyui.headless.boot import boot, find_comfyui

FLOOR = "floor: embedders and final layer"
FLOOR_WITH_INDICATOR = "floor, and the profile's indicator"
FLOORS = (FLOOR, FLOOR_WITH_INDICATOR)
NEVER_SKIP, ALWAYS_SKIP = 1e-12, 90.0
REPEATS = 12
WIDE_STEPS = 12
SKIP_CONFIGS: dict[str, dict[str, Any]] = {
    "residual, reuse (faithful)": {"mode": "faithful", "rel_l1_thresh": ALWAYS_SKIP},
    "residual, linear": {"mode": "faithful", "predictor": "linear", "rel_l1_thresh": ALWAYS_SKIP},
    "residual, rate (reads nothing)": {
        "mode": "faithful",
        "indicator": "rate",
        "predictor": "reuse",
        "rel_l1_thresh": ALWAYS_SKIP,
    },
    "forecast": {"mode": "forecast", "rel_l1_thresh": 0.2},
}
WIDE_CONFIGS = {name: config for name, config in SKIP_CONFIGS.items() if name != "forecast"}
DECISION_CONFIGS: dict[str, dict[str, Any]] = {
    "faithful": {"mode": "faithful", "rel_l1_thresh": NEVER_SKIP},
    "forecast": {"mode": "forecast", "rel_l1_thresh": NEVER_SKIP},
}
DECISION_METHODS: tuple[tuple[type, str], ...] = (
    (StackForward, StackForward._measure.__name__),
    (PredictionForward, "__init__"),
    (PredictionForward, PredictionForward.observe.__name__),
)
"""Methods that read and compare the indicator and decide; `observe` measures prediction errors."""


class PassThrough(nn.Module):
    """A block that returns its inputs, in place of all blocks of an SD3 model.

    Args:
        block: if given, its modulated input is computed and compared with the previous one, as
            TeaCache's indicator (arXiv 2411.19108, section 3.3). The result is not used.
    """

    def __init__(self, block: nn.Module | None) -> None:
        super().__init__()
        self.block = block
        self.previous: Tensor | None = None

    def forward(self, context: Tensor, x: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.block is not None:
            current = joint_block(self.block, BlockArguments((context, x), kwargs))
            if self.previous is not None:
                relative_change(current, self.previous).tolist()
            self.previous = current
        return context, x


@contextmanager
def without_blocks(testbed: Testbed, with_indicator: bool) -> Iterator[None]:
    transformer = testbed.patcher.model.diffusion_model
    blocks = transformer.joint_blocks
    transformer.joint_blocks = nn.ModuleList([PassThrough(blocks[0] if with_indicator else None)])
    try:
        yield
    finally:
        transformer.joint_blocks = blocks


@contextmanager
def timed_methods(functions: Iterable[tuple[type, str]]) -> Iterator[list[float]]:
    """Time calls of methods.

    Args:
        functions: (class, name) of each method.

    Yields:
        A list of one entry, to which the seconds of all calls are added.
    """
    spent = [0.0]

    def timing(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = function(*args, **kwargs)
            spent[0] += time.perf_counter() - started
            return result

        return call

    with ExitStack() as stack:
        for owner, name in functions:
            stack.enter_context(patch.object(owner, name, timing(getattr(owner, name))))
        yield spent


@dataclass
class TimedRun:
    """Times of one sampling call.

    Args:
        seconds, decision: of each step, and of the decision in it.
        skipped: whether each step was skipped.
        total: seconds of the call.
    """

    seconds: list[float] = field(default_factory=list)
    decision: list[float] = field(default_factory=list)
    skipped: list[bool] = field(default_factory=list)
    total: float = 0.0


def time_run(testbed: Testbed, config: dict[str, Any] | None, steps: int) -> TimedRun:
    from comfy.patcher_extension import WrappersMP

    from teacache.hosts.comfyui.patch import apply_teacache

    model, handle = testbed.patcher.clone(), None
    if config is not None:
        model, handle = apply_teacache(model, TeaCacheConfig(**config))
    times = TimedRun()
    with timed_methods(DECISION_METHODS) as spent:

        def clock(executor: Any, *args: Any, **kwargs: Any) -> Any:
            spent[0] = 0.0
            started = time.perf_counter()
            result = executor(*args, **kwargs)
            times.seconds.append(time.perf_counter() - started)
            times.decision.append(spent[0])
            return result

        model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "clock", clock)
        pairs = testbed.tuning_pairs(1)
        times.total = sample(testbed, COMFYUI, model, pairs, testbed.sigmas(steps)).seconds
    report = None if handle is None else handle.report_for()
    times.skipped = [record.skipped for record in report.records] if report else [False] * steps
    return times


@dataclass
class Series:
    """Times of one variant, with an entry for each repeat.

    Args:
        computed, skipped: seconds of the median step of that kind; empty if there is none.
        decision: seconds of the decision in the median computed step.
        total: seconds of the sampling call.
        skipped_share: skipped steps over all steps.
    """

    computed: list[float] = field(default_factory=list)
    skipped: list[float] = field(default_factory=list)
    decision: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    skipped_share: float = 0.0

    def add(self, run: TimedRun) -> None:
        steps = range(3, len(run.skipped) - 1)
        computed = [step for step in steps if not run.skipped[step]]
        skipped = [step for step in steps if run.skipped[step]]
        if computed:
            self.computed.append(statistics.median(run.seconds[step] for step in computed))
            self.decision.append(statistics.median(run.decision[step] for step in computed))
        if skipped:
            self.skipped.append(statistics.median(run.seconds[step] for step in skipped))
        self.total.append(run.total)
        self.skipped_share = sum(run.skipped) / len(run.skipped)


def measure(
    testbed: Testbed, variants: dict[str, dict[str, Any] | None], steps: int, repeats: int
) -> dict[str, Series]:
    """Time all variants.

    Args:
        variants: settings of the cache by name; None for none. Those in `FLOORS` run without
            the model's blocks.
        steps: of each run.
        repeats: runs of each variant, after one that is not counted.
    """
    series = {name: Series() for name in variants}
    for repeat in range(repeats + 1):
        for name in random.Random(repeat).sample(list(variants), len(variants)):
            with ExitStack() as stack:
                if name in FLOORS:
                    stack.enter_context(without_blocks(testbed, name == FLOOR_WITH_INDICATOR))
                run = time_run(testbed, variants[name], steps)
            if repeat:
                series[name].add(run)
    return series


def ratios(values: list[float], base: list[float]) -> list[float]:
    """`values` / `base`, element by element."""
    return [value / each for value, each in zip(values, base, strict=True)]


def format_spread(values: list[float], spec: str) -> str:
    """Median, lowest and highest of `values`, each in the format `spec`."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:{spec}} ({low:{spec}} to {high:{spec}})"


def skip_rows(
    measured: dict[str, Series], names: Iterable[str], full: list[float] | None
) -> list[str]:
    """Table rows of the floor and of skipped steps; `full`: seconds of a computed step, if any."""
    rows = {name: measured[name].computed for name in FLOORS}
    floor = rows[FLOOR]
    rows |= {f"skipped step, {name}": measured[f"skip: {name}"].skipped for name in names}
    return [
        f"| {name} | {1e3 * statistics.median(took):.2f} ms |"
        + (f" {statistics.median(ratios(took, full)):.1%} |" if full is not None else "")
        + (f" {format_spread(ratios(took, floor), '.2f')} |" if name != FLOOR else " 1 |")
        for name, took in rows.items()
    ]


def table(measured: dict[str, Series]) -> str:
    full, base = measured["uncached"].computed, measured["uncached"].total
    lines = [
        "| | time | of a full step | beside the floor |",
        "|---|---|---|---|",
        f"| full step, no cache | {1e3 * statistics.median(full):.2f} ms | 100 % | |",
        *skip_rows(measured, SKIP_CONFIGS, full),
        "",
        "| a computed step | decision | of that step | more than without a cache |",
        "|---|---|---|---|",
    ]
    for name in DECISION_CONFIGS:
        series = measured[f"decide: {name}"]
        more = [ratio - 1 for ratio in ratios(series.computed, full)]
        lines.append(
            f"| {name} | {1e3 * statistics.median(series.decision):.2f} ms "
            f"| {format_spread(ratios(series.decision, series.computed), '.1%')} "
            f"| {format_spread(more, '.1%')} |"
        )
    lines += [
        "",
        "| | steps skipped | gain | limit 1 / (1 - s (1 - f)) | gain / limit |",
        "|---|---|---|---|---|",
    ]
    for name in SKIP_CONFIGS:
        series = measured[f"skip: {name}"]
        gains = ratios(base, series.total)
        limits = [1 / (1 - series.skipped_share * (1 - f)) for f in ratios(series.skipped, full)]
        lines.append(
            f"| {name} | {series.skipped_share:.0%} | {statistics.median(gains):.2f}x "
            f"| {statistics.median(limits):.2f}x | {format_spread(ratios(gains, limits), '.2f')} |"
        )
    return "\n".join(lines)


def wide_table(measured: dict[str, Series]) -> str:
    return "\n".join(
        ["| | time | beside the floor |", "|---|---|---|", *skip_rows(measured, WIDE_CONFIGS, None)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    parser.add_argument("--comfyui", type=Path)
    parser.add_argument("--out", type=Path, help="a Markdown file for the tables")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory(prefix="teacache-costs-") as folder:
        boot(find_comfyui(args.comfyui), Path(folder))
        variants: dict[str, dict[str, Any] | None] = {"uncached": None, **dict.fromkeys(FLOORS)}
        variants |= {f"skip: {name}": config for name, config in SKIP_CONFIGS.items()}
        variants |= {f"decide: {name}": config for name, config in DECISION_CONFIGS.items()}
        demo_series = measure(load("demo", None), variants, STEPS, args.repeats)
        wide = wide_testbed()
        variants = dict.fromkeys(FLOORS) | {
            f"skip: {name}": config for name, config in WIDE_CONFIGS.items()
        }
        wide_series = measure(wide, variants, WIDE_STEPS, args.repeats)
    text = (
        f"# What a skip and a decision cost\n\n"
        f"`python -m benchmarks.costs --repeats {args.repeats} --threads {args.threads}` · torch "
        f"{torch.__version__} · {platform.machine()}, {args.threads} thread(s) · guidance 3, "
        f"float32 · medians over the repeats, with the lowest and the highest\n\n"
        f"## The demo model\n\n"
        f"128 x 128, {STEPS} Euler steps, of which 4 to {STEPS - 1} count.\n\n"
        f"{table(demo_series)}\n\n"
        f"## {wide.description}\n\n"
        f"Random weights, {WIDE_STEPS} Euler steps, of which 4 to {WIDE_STEPS - 1} count. There is "
        f"no full step to compare with.\n\n"
        f"{wide_table(wide_series)}\n"
    )
    print(text)
    if args.out is not None:
        write_atomically(args.out, lambda path: path.write_text(text, encoding="utf-8") and None)


if __name__ == "__main__":
    main()
