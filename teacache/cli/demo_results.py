"""What the demo leaves behind: pictures, a report, and a table on the terminal."""

from __future__ import annotations

import shutil
import statistics
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..files import write_atomically, write_json
from ..report import RunReport
from ..tables import aligned
from ..workflows.graph import Graph, find_node

REPORT_VERSION = 1
SIDES = ("uncached", "cached")
STEADY = 1.3  # slowest over fastest of equal runs, above which the figures need a caveat
TIMED = (
    "the sampler node's own time: models loaded, without text encoding, decoding and saving; "
    "median of {repeats}, uncached and cached in turn after a warm-up"
)


@dataclass
class Side:
    """One of the two things compared, and what its runs gave."""

    graph: Graph
    seconds: list[float] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def typical_report(self) -> dict[str, Any]:
        """The report of the run nearest the median; one without records if the cache was off."""
        if not self.reports:
            return off_report(self.inputs("KSampler")["steps"])
        nearest = min(range(len(self.seconds)), key=lambda i: abs(self.seconds[i] - self.median))
        return self.reports[nearest]

    def inputs(self, node: str) -> dict[str, Any]:
        """The inputs of the node with this title or class."""
        found: dict[str, Any] = self.graph[find_node(self.graph, node)]["inputs"]
        return found


def write_results(out: Path, uncached: Side, cached: Side) -> dict[str, Any]:
    """Writes uncached.png, cached.png, comparison.png, timeline.png and report.json to `out`.

    Returns the report.
    """
    import torch
    from PIL import Image

    from ..comparison.metrics import compare
    from ..plots.comparison import comparison
    from ..plots.pixels import to_tensor_image
    from ..plots.timeline import timeline

    def load(path: Path) -> torch.Tensor:
        with Image.open(path) as picture:
            return to_tensor_image(picture)

    def repeatable(side: Side) -> bool:
        first = load(side.pictures[0])
        return all(torch.equal(first, load(other)) for other in side.pictures[1:])

    first, second = uncached.pictures[0], cached.pictures[0]
    similarity = compare(load(first), load(second))
    similarity["repeatable"] = repeatable(uncached) and repeatable(cached)
    report = results_json(uncached, cached, similarity)
    for source, name in ((first, "uncached.png"), (second, "cached.png")):
        write_atomically(out / name, partial(shutil.copyfile, source))
    pictures = {"timeline.png": timeline(report["run"])}
    with Image.open(first) as a, Image.open(second) as b:
        pictures["comparison.png"] = comparison(
            a, b, labels=captions(report), psnr=similarity["psnr"], ssim=similarity["ssim"]
        )
    for name, picture in pictures.items():
        write_atomically(out / name, picture.save)
    write_json(out / "report.json", report)
    return report


def results_json(uncached: Side, cached: Side, similarity: dict[str, Any]) -> dict[str, Any]:
    run = cached.typical_report
    sampler = cached.inputs("KSampler")
    return {
        "version": REPORT_VERSION,
        "prompt": cached.inputs("Prompt")["text"],
        "negative": cached.inputs("Negative prompt")["text"],
        "seed": sampler["seed"],
        "timed": TIMED.format(repeats=len(cached.seconds)),
        "uncached": {"seconds": uncached.median, "all_seconds": uncached.seconds},
        "cached": {
            "seconds": cached.median,
            "all_seconds": cached.seconds,
            "steps": sampler["steps"],
            "skipped": run["skipped"],
            "threshold": run["threshold"],
        },
        "speedup": uncached.median / cached.median,
        **similarity,
        "run": run,
    }


def off_report(steps: int) -> dict[str, Any]:
    """The report of a run that no cache watched."""
    off = RunReport(
        host="comfyui",
        family="",
        family_name="Demo model",
        profile="",
        calibrated=False,
        method="",
        cached="",
        indicator="",
        predictor="",
        sampler="",
        threshold=0.0,
        steps=steps,
        sigmas=[],
        outcome="done",
    )
    return off.to_json()


def cached_name(report: dict[str, Any]) -> str:
    threshold = report["cached"]["threshold"]
    return f"TeaCache {threshold:g}" if threshold else "TeaCache off"


def captions(report: dict[str, Any]) -> tuple[str, str]:
    cached = report["cached"]
    return (
        f"uncached\n{report['uncached']['seconds']:.2f} s",
        f"{cached_name(report)}\n{cached['seconds']:.2f} s, "
        f"{cached['skipped']} of {cached['steps']} skipped",
    )


def table(report: dict[str, Any]) -> str:
    """The figures of `report` in three rows."""
    cached, steps = report["cached"], report["cached"]["steps"]
    psnr = "identical" if report["identical"] else f"{report['psnr']:.1f} dB"
    rows = [
        ("", "sampling", "steps computed", "speed-up", "PSNR", "SSIM"),
        ("uncached", f"{report['uncached']['seconds']:.2f} s", f"{steps} of {steps}", "", "", ""),
        (
            cached_name(report),
            f"{cached['seconds']:.2f} s",
            f"{steps - cached['skipped']} of {steps}",
            f"{report['speedup']:.2f}x",
            psnr,
            f"{report['ssim']:.3f}",
        ),
    ]
    return aligned(rows)


def print_table(report: dict[str, Any], out: Path) -> None:
    print(f"\n{table(report)}\n")
    print(f"Prompt {report['prompt']!r}, seed {report['seed']}. Timed: {report['timed']}.")
    for sentence in filter(None, [report["run"]["advice"], *report["run"]["warnings"]]):
        print(sentence)
    spread = max(max(s) / min(s) for s in (report[k]["all_seconds"] for k in SIDES))
    if spread > STEADY:
        print(
            f"Equal runs differed by {spread:.1f}x in time, as when other programs are busy: "
            f"the cached run's own steps say {report['run']['estimated_speedup']:.2f}x."
        )
    if not report["repeatable"]:
        print("Repeats of the same run differ on this machine: part of the difference is noise.")
    print(f"Pictures and report: {out}")
    for name in ("uncached.png", "cached.png", "comparison.png", "timeline.png", "report.json"):
        print(f"  {name}")
