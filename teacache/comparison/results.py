"""The results of a comparison as plain data, and as a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from ..tables import aligned
from .axes import Axis, shown
from .runner import Comparison, Variant

REPORT_VERSION = 1
STEADY = 1.3  # slowest over fastest of equal runs, above which the times need a caveat
IMPOSSIBLE = 1.2
"""How much more than evaluations over computed ones a speed-up must be, not to be believed."""
IN_TURN = "without the cache and every point in turn after a warm-up"
APART = (
    "after a warm-up, each point beside the uncached runs of its own process, to which its "
    "speed-up relates; times of different processes cannot be compared"
)
Figures = dict[str, Any]
"""A variant's results as JSON: see `figures`."""


def results(
    comparison: Comparison, x: Axis, y: Axis | None, what: str, about: dict[str, Any]
) -> dict[str, Any]:
    """The report of a sweep, of the runs so far.

    Args:
        what: what was timed, in words.
        about: further entries, such as the prompt.
    """
    reference, *others = figures(comparison)
    points, fewer = others[: len(comparison.variants)], others[len(comparison.variants) :]
    for point, variant in zip(points, comparison.variants, strict=True):
        point["steps_in_its_time"] = variant.steps_in_its_time
    median = "once each" if comparison.repeats == 1 else f"median of {comparison.repeats}"
    processes = comparison.uncached_seconds
    return {
        "version": REPORT_VERSION,
        **about,
        "x": axis_json(x),
        "y": None if y is None else axis_json(y),
        "repeats": comparison.repeats,
        "timed": f"{what}; {median}, {APART if processes else IN_TURN}",
        "processes": {name: {"uncached_seconds": each} for name, each in processes.items()},
        "spread": spread(comparison),
        "repeatable": repeatable(comparison),
        "reference": reference,
        "points": points,
        "fewer_steps": fewer,
    }


def axis_json(axis: Axis) -> dict[str, Any]:
    return {"setting": axis.setting, "values": [shown(value) for value in axis.values]}


def spread(comparison: Comparison) -> float:
    """Slowest over fastest of equal runs, the largest of all variants."""
    times = [variant.seconds for variant in [*comparison.variants, *comparison.fewer]]
    times += comparison.uncached_seconds.values() or [comparison.reference.seconds]
    return max((max(seconds) / min(seconds) for seconds in times if seconds), default=1.0)


def repeatable(comparison: Comparison) -> bool:
    return all(variant.repeatable for variant in comparison.all_variants)


def figures(comparison: Comparison) -> list[Figures]:
    """The results of every variant, the reference first.

    `status` is done, failed or not sampled. The reference, which no cache watched, has computed
    every evaluation.
    """
    every = [counts(variant)["evaluations"] for variant in comparison.variants]
    return [
        variant_json(variant, comparison, max(every, default=0))
        for variant in comparison.all_variants
    ]


def counts(variant: Variant) -> dict[str, int]:
    """Evaluations of the model in one run, by the reports of its sampling runs."""
    runs = variant.typical_runs
    return {key: sum(run[key] for run in runs) for key in ("evaluations", "computed", "skipped")}


def variant_json(variant: Variant, comparison: Comparison, evaluations: int) -> Figures:
    """A variant's figures.

    Args:
        evaluations: of a whole run, for variants that no cache watched.
    """
    status = "failed" if variant.failure else "done" if variant.seconds else "not sampled"
    error = str(variant.failure) if variant.failure else None
    data: Figures = {"label": variant.label, "status": status, "error": error}
    if variant.steps is not None:
        data["steps"] = variant.steps
    if variant.point is not None:
        cell = {"column": variant.point.column, "row": variant.point.row}
        data = {"settings": dict(variant.point.settings), **cell, **data}
    if status != "done":
        return data
    counted = counts(variant)
    if variant.steps is not None:
        evaluations = 0  # not comparable with those of the points
    if not counted["evaluations"]:
        counted = {"evaluations": evaluations, "computed": evaluations, "skipped": 0}
    if variant.process and variant is not comparison.reference:
        data["process"] = variant.process
    data |= {"seconds": variant.median, "all_seconds": variant.seconds, **counted}
    if variant is not comparison.reference:
        data |= {"speedup": comparison.speedup(variant), **(variant.metrics or {})}
    if variant.point is not None:
        data |= {
            "bytes_held": max((run["bytes_held"] for run in variant.typical_runs), default=0),
            "runs": variant.typical_runs,
        }
    return data


def table(rows: Sequence[Figures]) -> str:
    """A row for each variant that is done, a line for each that is not.

    A column without any figure is left out.
    """
    done = [row for row in rows if row["status"] == "done"]
    columns = [[header, *map(cell, done)] for header, cell in COLUMNS.items()]
    columns = columns[:1] + [column for column in columns[1:] if any(column[1:])]
    lines = [aligned(list(zip(*columns, strict=True)))]
    for row in rows:
        if row["status"] == "failed":
            lines.append(f"{row['label']}: cannot run: {row['error']}")
        elif row["status"] == "not sampled":
            lines.append(f"{row['label']}: not sampled")
    return "\n".join(lines)


def computed(row: Figures) -> str:
    """`20 of 50`; `all` where evaluations were not counted."""
    return f"{row['computed']} of {row['evaluations']}" if row["evaluations"] else "all"


def noise(row: Figures) -> str:
    """The PSNR in words."""
    return "identical" if row["identical"] else f"{row['psnr']:.1f} dB"


def gain(row: Figures) -> str:
    """The speed-up; `<= 2.94x` where the times tell more than skipping can give, as on a machine
    that was busy meanwhile."""
    if "speedup" not in row:
        return ""
    most = row["evaluations"] / row["computed"] if row["computed"] else math.inf
    if row["skipped"] and row["speedup"] > IMPOSSIBLE * most:
        return f"\N{LESS-THAN OR EQUAL TO} {most:.2f}x"
    return f"{row['speedup']:.2f}x"


def size(count: int) -> str:
    """Bytes in words."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.0f} kB"


def four_digits(key: str) -> Callable[[Figures], str]:
    return lambda row: "" if row.get(key) is None else f"{row[key]:.4f}"


COLUMNS: dict[str, Callable[[Figures], str]] = {
    "": lambda row: str(row["label"]),
    "time": lambda row: f"{row['seconds']:.2f} s",
    "computed": computed,
    "speed-up": gain,
    "PSNR": lambda row: noise(row) if "identical" in row else "",
    "SSIM": four_digits("ssim"),
    "LPIPS": four_digits("lpips"),
    "process": lambda row: str(row.get("process", "")),
    "held": lambda row: size(row["bytes_held"]) if "bytes_held" in row else "",
}


def notes(report: dict[str, Any]) -> list[str]:
    """What a reader of a sweep's report has to know, a sentence each."""
    sentences = [f"Timed: {report['timed']}."]
    if len(report["processes"]) > 1:
        for name, of_process in report["processes"].items():
            seconds = statistics.median(of_process["uncached_seconds"])
            sentences.append(f"Without the cache in process {name}: {seconds:.2f} s.")
    sentences += caveats(report["spread"], report["repeatable"])
    sentences += better_in_fewer_steps(report)
    for point in report["points"]:
        for run in point.get("runs", []):
            sentences += [f"{point['label']}: {warning}" for warning in run["warnings"]]
            sentences += [run["evidence"]] if run["evidence"] else []
    return list(dict.fromkeys(sentences))


def better_in_fewer_steps(report: dict[str, Any]) -> list[str]:
    """A sentence for each point that fewer steps without the cache beat in the same time."""
    fewer = {row["steps"]: row for row in report["fewer_steps"] if row["status"] == "done"}
    sentences = []
    for point in report["points"]:
        plain = fewer.get(point["steps_in_its_time"])
        if (
            plain
            and not point["identical"]
            and (plain["identical"] or plain["psnr"] > point["psnr"])
        ):
            sentences.append(
                f"{point['label']}: {plain['steps']} steps without the cache take as long and come "
                f"nearer to the uncached picture ({noise(plain)}, not {noise(point)})."
            )
    return sentences


def caveats(spread: float, repeatable: bool) -> list[str]:
    """Why the figures of a comparison are to be read with care, a sentence each."""
    sentences = []
    if spread > STEADY:
        sentences.append(
            f"Equal runs differed by up to {spread:.1f}x in time, as when other programs are "
            "busy: compare the steps computed as well."
        )
    if not repeatable:
        sentences.append("Repeats of the same run differ: part of the difference is noise.")
    return sentences
