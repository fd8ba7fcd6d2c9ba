"""What a skipped step and a decision cost on the demo model, beside the model's own parts.

    python -m benchmarks.costs [--repeats 12] [--threads 1] [--out FILE.md]

Each repeat samples 50 steps in every way, in turn, after a warm-up; a step's time is that of the
guider's prediction, by a wrapper around it, and figures are medians over all steps of all repeats.
The floor is the same model with its blocks replaced by one that passes its inputs through:
embedders, final layer and what ComfyUI does around them.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.sampling import sample
from benchmarks.testbeds import COMFYUI, STEPS, Pair, Testbed, load
from teacache.config import TeaCacheConfig
from teacache.files import write_atomically
from teacache.hosts.headless import boot, find_comfyui

NEVER, ALWAYS = 1e-12, 90.0
REPEATS = 12
SKIPPING: dict[str, dict[str, Any]] = {
    "residual, reuse (faithful)": {"mode": "faithful", "rel_l1_thresh": ALWAYS},
    "residual, linear": {"mode": "faithful", "predictor": "linear", "rel_l1_thresh": ALWAYS},
    "forecast": {"mode": "forecast", "rel_l1_thresh": 0.2},
}
DECIDING: dict[str, dict[str, Any]] = {
    "faithful": {"mode": "faithful", "rel_l1_thresh": NEVER},
    "forecast": {"mode": "forecast", "rel_l1_thresh": NEVER},
}


class PassThrough(nn.Module):
    """Stands for all blocks of an SD3 model."""

    def forward(self, context: Tensor, x: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return context, x


@contextmanager
def without_blocks(bed: Testbed) -> Iterator[None]:
    transformer = bed.patcher.model.diffusion_model
    blocks = transformer.joint_blocks
    transformer.joint_blocks = nn.ModuleList([PassThrough()])
    try:
        yield
    finally:
        transformer.joint_blocks = blocks


def timed(bed: Testbed, config: dict[str, Any] | None) -> tuple[list[float], list[bool], float]:
    """Seconds of each step, which were skipped, and seconds of the whole call."""
    from comfy.patcher_extension import WrappersMP

    from teacache.hosts.comfyui import apply_teacache

    model, handle = bed.patcher.clone(), None
    if config is not None:
        model, handle = apply_teacache(model, TeaCacheConfig(**config))
    seconds: list[float] = []

    def clock(executor: Any, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = executor(*args, **kwargs)
        seconds.append(time.perf_counter() - started)
        return result

    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "clock", clock)
    pair = Pair(bed.tuning[0], 0)
    whole = sample(bed, COMFYUI, model, [pair], bed.levels(STEPS)).seconds
    report = None if handle is None else handle.report_for()
    skipped = [record.skipped for record in report.records] if report else [False] * STEPS
    return seconds, skipped, whole


class Series:
    """Times of one way to sample, over the repeats."""

    def __init__(self) -> None:
        self.computed: list[float] = []
        self.skipped: list[float] = []
        self.whole: list[float] = []
        self.share = 0.0

    def add(self, seconds: list[float], skipped: list[bool], whole: float) -> None:
        for took, was_skipped in list(zip(seconds, skipped, strict=True))[3:-1]:
            (self.skipped if was_skipped else self.computed).append(took)
        self.whole.append(whole)
        self.share = sum(skipped) / len(skipped)


def measure(bed: Testbed, repeats: int) -> dict[str, Series]:
    ways: dict[str, dict[str, Any] | None] = {"uncached": None, "floor": None}
    ways |= {f"skip: {name}": config for name, config in SKIPPING.items()}
    ways |= {f"decide: {name}": config for name, config in DECIDING.items()}
    found = {name: Series() for name in ways}
    for repeat in range(repeats + 1):
        for name, config in ways.items():
            if name == "floor":
                with without_blocks(bed):
                    result = timed(bed, config)
            else:
                result = timed(bed, config)
            if repeat:
                found[name].add(*result)
    return found


def table(found: dict[str, Series]) -> str:
    full = statistics.median(found["uncached"].computed)
    floor = statistics.median(found["floor"].computed)
    lines = [
        "| | time | of a full step | beside the floor |",
        "|---|---|---|---|",
        f"| full step, no cache | {1e3 * full:.2f} ms | 100 % | |",
        f"| floor: embedders and final layer | {1e3 * floor:.2f} ms | {floor / full:.1%} | 1.00 |",
    ]
    for name in SKIPPING:
        took = statistics.median(found[f"skip: {name}"].skipped)
        lines.append(
            f"| skipped step, {name} | {1e3 * took:.2f} ms | {took / full:.1%} "
            f"| {took / floor:.2f} |"
        )
    for name in DECIDING:
        extra = statistics.median(found[f"decide: {name}"].computed) - full
        lines.append(
            f"| what a computed step takes more, {name} | {1e3 * extra:.2f} ms "
            f"| {extra / full:.1%} | |"
        )
    lines += [
        "",
        "| | steps skipped | gain | limit 1 / (1 - s (1 - f)) | gain / limit |",
        "|---|---|---|---|---|",
    ]
    base = statistics.median(found["uncached"].whole)
    for name in SKIPPING:
        series = found[f"skip: {name}"]
        f = statistics.median(series.skipped) / full
        gain, limit = base / statistics.median(series.whole), 1 / (1 - series.share * (1 - f))
        lines.append(
            f"| {name} | {series.share:.0%} | {gain:.2f}x | {limit:.2f}x | {gain / limit:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    parser.add_argument("--comfyui", type=Path)
    parser.add_argument("--out", type=Path, help="a Markdown file for the table")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory(prefix="teacache-costs-") as folder:
        boot(find_comfyui(args.comfyui), Path(folder))
        found = measure(load("demo", None), args.repeats)
    text = (
        f"# What a skip and a decision cost on the demo model\n\n"
        f"`python -m benchmarks.costs --repeats {args.repeats} --threads {args.threads}` · torch "
        f"{torch.__version__} · {platform.machine()}, {args.threads} thread(s) · 128 x 128, 50 "
        f"Euler steps, guidance 3, float32. Steps 4 to 49 count.\n\n{table(found)}\n"
    )
    print(text)
    if args.out is not None:
        write_atomically(args.out, lambda path: path.write_text(text, encoding="utf-8") and None)


if __name__ == "__main__":
    main()
