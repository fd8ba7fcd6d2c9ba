"""A sweep on the terminal: progress, files as they come, and the table."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..comparison import Axis, Comparison, Point, SamplingBackend, Variant
from ..comparison.results import notes, results, table
from ..comparison.runner import PicturesListener
from ..files import write_atomically, write_json
from ..progress import Progress
from .options import usable_folder
from .pictures import write_pictures
from .progress import task_bar

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Task:
    """A sweep.

    Args:
        out: the folder for the results.
        fewer_steps: whether to sample as well what takes as long without the cache.
    """

    x: Axis
    y: Axis | None
    points: list[Point]
    repeats: int
    out: Path
    fewer_steps: bool


class Sampler(Protocol):
    """What samples a comparison: one process in turn, or workers."""

    def check(self, comparison: Comparison) -> None:
        """Mark the points that cannot run; raise the first one's error if none can."""

    def run(
        self,
        comparison: Comparison,
        on_progress: Callable[[Progress], None],
        on_pictures: PicturesListener,
    ) -> None:
        """Sample everything; what is done stays in the variants however this ends."""


@dataclass(frozen=True)
class InTurn:
    """Samples in this process."""

    backend: SamplingBackend

    def check(self, comparison: Comparison) -> None:
        comparison.check(self.backend)

    def run(
        self,
        comparison: Comparison,
        on_progress: Callable[[Progress], None],
        on_pictures: PicturesListener,
    ) -> None:
        comparison.run(self.backend, on_progress, on_pictures)


class PictureFiles:
    """Writes the pictures of each variant as they come, and remembers their names."""

    def __init__(self, out: Path, comparison: Comparison) -> None:
        self._out = out
        self._numbers = {v: number for number, v in enumerate(comparison.variants, 1)}
        self.names: dict[Variant, list[str]] = {}

    def write(self, variant: Variant, pictures: Tensor) -> None:
        stem = file_stem(variant.label)
        if variant.point is not None:
            stem = f"{self._numbers[variant]:02}_{stem}"
        self.names[variant] = write_pictures(self._out, stem, pictures)


def file_stem(label: str) -> str:
    """`rel_l1_thresh_0.1_mode_forecast`."""
    return re.sub(r"[^\w.-]+", "_", label)[:100]


def carry_out(task: Task, sampler: Sampler, what: str, about: dict[str, Any]) -> None:
    """Sample everything; write and print what is done, however it ends.

    Args:
        what: is timed, in words.
        about: further entries of the report.

    Raises what `Comparison.run` raises, `KeyboardInterrupt`, and `UserError` for an unusable
    folder.
    """
    comparison = Comparison(task.points, task.repeats, task.fewer_steps)
    sampler.check(comparison)
    usable_folder(task.out, "--out")
    files = PictureFiles(task.out, comparison)
    started, status = time.time(), "failed"
    try:
        with task_bar() as on_progress:
            sampler.run(comparison, on_progress, files.write)
        status = "done"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        if comparison.reference.seconds:
            entries = {
                "status": status,
                "started": round(started, 3),
                "wall_seconds": round(time.time() - started, 3),
                **about,
            }
            report = results(comparison, task.x, task.y, what, entries)
            write_results(task.out, comparison, report, files)
            print_results(task.out, report, files)


def write_results(
    out: Path, comparison: Comparison, report: dict[str, Any], files: PictureFiles
) -> None:
    """Write sweep.png and report.json."""
    from ..plots.pixels import to_pil
    from ..plots.sweep import sweep_plot

    pictures = [
        None if variant.picture is None else to_pil(variant.picture)
        for variant in (comparison.reference, *comparison.variants)
    ]
    write_atomically(out / "sweep.png", sweep_plot(report, pictures).save)
    every = [report["reference"], *report["points"], *report["fewer_steps"]]
    for variant, data in zip(comparison.all_variants, every, strict=True):
        data["files"] = files.names.get(variant, [])
    write_json(out / "report.json", report)


def print_results(out: Path, report: dict[str, Any], files: PictureFiles) -> None:
    rows = [report["reference"], *report["points"], *report["fewer_steps"]]
    print(f"\n{table(rows)}\n")
    for sentence in notes(report):
        print(sentence)
    count = sum(map(len, files.names.values()))
    print(f"Results in {out}: sweep.png, report.json and {count} pictures")
