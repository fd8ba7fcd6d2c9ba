"""What a skipped step and a decision cost, beside the model's own parts.

    python -m benchmarks.costs [--repeats 12] [--threads 1] [--out FILE.md]

Each repeat samples 50 steps in every way, in a shuffled order, after a warm-up; a step's time is
that of the guider's prediction, by a wrapper around it. Ways are compared within a repeat, by their
median steps; figures are medians over the repeats, with the lowest and the highest behind them.
What decides is also timed by itself, within its step. The floor is the same model with its blocks
replaced by one that passes its inputs through: embedders, final layer and what ComfyUI does around
them. Beside it, the same with the indicator that TeaCache defines, read and compared over both
branches at once. All of it again on a model as wide as a real one (`benchmarks.wide`), whose blocks
do nothing.
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.sampling import sample
from benchmarks.testbeds import COMFYUI, STEPS, Pair, Testbed, load
from benchmarks.wide import wide_bed
from teacache.config import TeaCacheConfig
from teacache.engine.forward import PredictionForward, StackForward
from teacache.engine.indicators import relative_change
from teacache.engine.run import Run
from teacache.families.comfyui.modulation import joint_block
from teacache.families.streams import BlockArguments
from teacache.files import write_atomically
from teacache.hosts.comfyui.headless.boot import boot, find_comfyui

FLOOR = "floor: embedders and final layer"
READING = "floor, and the profile's indicator"
FLOORS = (FLOOR, READING)
NEVER, ALWAYS = 1e-12, 90.0
REPEATS = 12
WIDE_STEPS = 12
SKIPPING: dict[str, dict[str, Any]] = {
    "residual, reuse (faithful)": {"mode": "faithful", "rel_l1_thresh": ALWAYS},
    "residual, reuse, every 8th token": {
        "mode": "faithful",
        "token_stride": 8,
        "rel_l1_thresh": ALWAYS,
    },
    "residual, linear": {"mode": "faithful", "predictor": "linear", "rel_l1_thresh": ALWAYS},
    "residual, rate (reads nothing)": {
        "mode": "faithful",
        "indicator": "rate",
        "predictor": "reuse",
        "rel_l1_thresh": ALWAYS,
    },
    "forecast": {"mode": "forecast", "rel_l1_thresh": 0.2},
}
WIDE = {name: config for name, config in SKIPPING.items() if name != "forecast"}
DECIDING: dict[str, dict[str, Any]] = {
    "faithful": {"mode": "faithful", "rel_l1_thresh": NEVER},
    "faithful, every 8th token": {
        "mode": "faithful",
        "token_stride": 8,
        "rel_l1_thresh": NEVER,
    },
    "forecast": {"mode": "forecast", "rel_l1_thresh": NEVER},
}
DECISION: tuple[tuple[type, str], ...] = (
    (Run, "decide_by_latent"),
    (StackForward, "_measure"),
    (PredictionForward, "__init__"),
    (PredictionForward, "observe"),
)
"""What reads, compares and judges; `observe` learns how wrong a prediction would have been."""


class PassThrough(nn.Module):
    """Stands for all blocks of an SD3 model.

    block: where given, its modulated input is read and compared with the last one, as TeaCache
    defines its indicator (arXiv 2411.19108, section 3.3). Nothing is done with it.
    """

    def __init__(self, block: nn.Module | None) -> None:
        super().__init__()
        self.block = block
        self.before: Tensor | None = None

    def forward(self, context: Tensor, x: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.block is not None:
            now = joint_block(self.block, BlockArguments((context, x), kwargs))
            if self.before is not None:
                relative_change(now, self.before).tolist()
            self.before = now
        return context, x


@contextmanager
def without_blocks(bed: Testbed, reading: bool) -> Iterator[None]:
    transformer = bed.patcher.model.diffusion_model
    blocks = transformer.joint_blocks
    transformer.joint_blocks = nn.ModuleList([PassThrough(blocks[0] if reading else None)])
    try:
        yield
    finally:
        transformer.joint_blocks = blocks


@contextmanager
def clocked(functions: Iterable[tuple[type, str]]) -> Iterator[list[float]]:
    """Seconds spent in methods, by class and name, added to the one entry of what it gives."""
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
class Timed:
    """Seconds of a sampling call, of each of its steps, and of the decision in each of them."""

    seconds: list[float] = field(default_factory=list)
    deciding: list[float] = field(default_factory=list)
    skipped: list[bool] = field(default_factory=list)
    whole: float = 0.0


def timed(bed: Testbed, config: dict[str, Any] | None, steps: int) -> Timed:
    from comfy.patcher_extension import WrappersMP

    from teacache.hosts.comfyui.patch import apply_teacache

    model, handle = bed.patcher.clone(), None
    if config is not None:
        model, handle = apply_teacache(model, TeaCacheConfig(**config))
    found = Timed()
    with clocked(DECISION) as spent:

        def clock(executor: Any, *args: Any, **kwargs: Any) -> Any:
            spent[0] = 0.0
            started = time.perf_counter()
            result = executor(*args, **kwargs)
            found.seconds.append(time.perf_counter() - started)
            found.deciding.append(spent[0])
            return result

        model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "clock", clock)
        pair = Pair(bed.tuning[0], 0)
        found.whole = sample(bed, COMFYUI, model, [pair], bed.levels(steps)).seconds
    report = None if handle is None else handle.report_for()
    found.skipped = [record.skipped for record in report.records] if report else [False] * steps
    return found


@dataclass
class Series:
    """One way to sample: an entry per repeat.

    computed, skipped: seconds of the median step of that kind; empty where no step is of it.
    deciding: seconds of the decision in the median computed step. whole: seconds of the call.
    share: of the steps that are skipped.
    """

    computed: list[float] = field(default_factory=list)
    skipped: list[float] = field(default_factory=list)
    deciding: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    share: float = 0.0

    def add(self, run: Timed) -> None:
        steps = range(3, len(run.skipped) - 1)
        computed = [step for step in steps if not run.skipped[step]]
        skipped = [step for step in steps if run.skipped[step]]
        if computed:
            self.computed.append(statistics.median(run.seconds[step] for step in computed))
            self.deciding.append(statistics.median(run.deciding[step] for step in computed))
        if skipped:
            self.skipped.append(statistics.median(run.seconds[step] for step in skipped))
        self.whole.append(run.whole)
        self.share = sum(run.skipped) / len(run.skipped)


def measure(
    bed: Testbed, ways: dict[str, dict[str, Any] | None], steps: int, repeats: int
) -> dict[str, Series]:
    found = {name: Series() for name in ways}
    for repeat in range(repeats + 1):
        for name in random.Random(repeat).sample(list(ways), len(ways)):
            alone = name in FLOORS
            with without_blocks(bed, reading=name == READING) if alone else nullcontext():
                result = timed(bed, ways[name], steps)
            if repeat:
                found[name].add(result)
    return found


def over(values: list[float], base: list[float]) -> list[float]:
    """Repeat by repeat, how often `base` goes into `values`."""
    return [value / each for value, each in zip(values, base, strict=True)]


def spread(values: list[float], show: str) -> str:
    """Median, lowest and highest. show: the format of a value."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:{show}} ({low:{show}} to {high:{show}})"


def skips(found: dict[str, Series], names: Iterable[str], full: list[float] | None) -> list[str]:
    """Rows of the floor and of skipped steps."""
    rows = {name: found[name].computed for name in FLOORS}
    floor = rows[FLOOR]
    rows |= {f"skipped step, {name}": found[f"skip: {name}"].skipped for name in names}
    return [
        f"| {name} | {1e3 * statistics.median(took):.2f} ms |"
        + (f" {statistics.median(over(took, full)):.1%} |" if full is not None else "")
        + (f" {spread(over(took, floor), '.2f')} |" if name != FLOOR else " 1 |")
        for name, took in rows.items()
    ]


def table(found: dict[str, Series]) -> str:
    full, base = found["uncached"].computed, found["uncached"].whole
    lines = [
        "| | time | of a full step | beside the floor |",
        "|---|---|---|---|",
        f"| full step, no cache | {1e3 * statistics.median(full):.2f} ms | 100 % | |",
        *skips(found, SKIPPING, full),
        "",
        "| a computed step | decision | of that step | more than without a cache |",
        "|---|---|---|---|",
    ]
    for name in DECIDING:
        series = found[f"decide: {name}"]
        more = [ratio - 1 for ratio in over(series.computed, full)]
        lines.append(
            f"| {name} | {1e3 * statistics.median(series.deciding):.2f} ms "
            f"| {spread(over(series.deciding, series.computed), '.1%')} | {spread(more, '.1%')} |"
        )
    lines += [
        "",
        "| | steps skipped | gain | limit 1 / (1 - s (1 - f)) | gain / limit |",
        "|---|---|---|---|---|",
    ]
    for name in SKIPPING:
        series = found[f"skip: {name}"]
        gains = over(base, series.whole)
        limits = [1 / (1 - series.share * (1 - f)) for f in over(series.skipped, full)]
        lines.append(
            f"| {name} | {series.share:.0%} | {statistics.median(gains):.2f}x "
            f"| {statistics.median(limits):.2f}x | {spread(over(gains, limits), '.2f')} |"
        )
    return "\n".join(lines)


def wide_table(found: dict[str, Series]) -> str:
    return "\n".join(["| | time | beside the floor |", "|---|---|---|", *skips(found, WIDE, None)])


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
        ways: dict[str, dict[str, Any] | None] = {"uncached": None, **dict.fromkeys(FLOORS)}
        ways |= {f"skip: {name}": config for name, config in SKIPPING.items()}
        ways |= {f"decide: {name}": config for name, config in DECIDING.items()}
        found = measure(load("demo", None), ways, STEPS, args.repeats)
        wide = wide_bed()
        ways = dict.fromkeys(FLOORS) | {f"skip: {name}": config for name, config in WIDE.items()}
        found_wide = measure(wide, ways, WIDE_STEPS, args.repeats)
    text = (
        f"# What a skip and a decision cost\n\n"
        f"`python -m benchmarks.costs --repeats {args.repeats} --threads {args.threads}` · torch "
        f"{torch.__version__} · {platform.machine()}, {args.threads} thread(s) · guidance 3, "
        f"float32 · medians over the repeats, with the lowest and the highest\n\n"
        f"## The demo model\n\n"
        f"128 x 128, {STEPS} Euler steps, of which 4 to {STEPS - 1} count.\n\n{table(found)}\n\n"
        f"## {wide.about}\n\n"
        f"Random weights, {WIDE_STEPS} Euler steps, of which 4 to {WIDE_STEPS - 1} count. There is "
        f"no full step to compare with.\n\n"
        f"{wide_table(found_wide)}\n"
    )
    print(text)
    if args.out is not None:
        write_atomically(args.out, lambda path: path.write_text(text, encoding="utf-8") and None)


if __name__ == "__main__":
    main()
