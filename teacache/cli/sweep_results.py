"""Carrying out a sweep on the terminal: progress, files as they come, and the table."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..comparison import Axis, Host, Point, Progress, Side, Sweep
from ..comparison.results import notes, results, table
from ..files import write_atomically, write_json
from .generate_results import named
from .options import usable_folder
from .progress import new_bar

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


@dataclass(frozen=True)
class Task:
    """What is swept, with what, and where the results go.

    what: what is timed, in words. about: further entries of the report.
    """

    host: Host
    x: Axis
    y: Axis | None
    points: list[Point]
    repeats: int
    what: str
    about: dict[str, Any]
    out: Path


class Files:
    """Writes the pictures of each side as they come, and remembers their names."""

    def __init__(self, out: Path, sweep: Sweep) -> None:
        self._out = out
        self._numbers = {side: number for number, side in enumerate(sweep.everyone)}
        self.names: dict[Side, list[str]] = {}

    def keep(self, side: Side, pictures: Tensor) -> None:
        from ..plots.pixels import to_pil

        stem = file_stem(side.label)
        if side.point is not None:
            stem = f"{self._numbers[side]:02}_{stem}"
        files = named(stem, pictures)
        for name, pixels in files.items():
            write_atomically(self._out / name, to_pil(pixels).save)
        self.names[side] = list(files)


def file_stem(label: str) -> str:
    """`rel_l1_thresh_0.1_mode_forecast`."""
    return re.sub(r"[^\w.-]+", "_", label)[:100]


def carry_out(task: Task) -> None:
    """Samples everything; writes and prints what is done, however it ends.

    Raises what `Sweep.run` raises, `KeyboardInterrupt`, and `UserError` for an unusable folder.
    """
    sweep = Sweep(task.points, task.repeats)
    sweep.check(task.host)
    usable_folder(task.out, "--out")
    files = Files(task.out, sweep)
    started, status = time.time(), "failed"
    try:
        with sweep_bar() as tell:
            sweep.run(task.host, tell, files.keep)
        status = "done"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        if sweep.reference.seconds:
            about = {
                "status": status,
                "started": round(started, 3),
                "wall_seconds": round(time.time() - started, 3),
                **task.about,
            }
            report = results(sweep, task.x, task.y, task.what, about)
            write_results(task.out, sweep, report, files)
            print_results(task.out, report, files)


def write_results(out: Path, sweep: Sweep, report: dict[str, Any], files: Files) -> None:
    """Writes sweep.png and report.json."""
    from ..plots.pixels import to_pil
    from ..plots.sweep import sweep_plot

    thumbnails = [
        None if side.thumbnail is None else to_pil(side.thumbnail) for side in sweep.everyone
    ]
    write_atomically(out / "sweep.png", sweep_plot(report, thumbnails).save)
    for side, data in zip(sweep.everyone, [report["reference"], *report["points"]], strict=True):
        data["files"] = files.names.get(side, [])
    write_json(out / "report.json", report)


def print_results(out: Path, report: dict[str, Any], files: Files) -> None:
    print(f"\n{table(report)}\n")
    for sentence in notes(report):
        print(sentence)
    count = sum(map(len, files.names.values()))
    print(f"Results in {out}: sweep.png, report.json and {count} pictures")


@contextmanager
def sweep_bar() -> Iterator[Callable[[Progress], None]]:
    """A bar over all runs, with the time left; gives what is to be told of progress."""
    with new_bar(1.0, "", bar_format="{percentage:3.0f}%|{bar:24}| {desc}") as bar:

        def tell(progress: Progress) -> None:
            bar.total = progress.runs
            bar.set_description_str(str(progress), refresh=False)
            bar.update(progress.done - bar.n)

        yield tell
