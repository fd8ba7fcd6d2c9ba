"""What a sweep found, as plain data, and as a table."""

from __future__ import annotations

from typing import Any

from ..tables import aligned
from .axes import Axis, shown
from .runner import Side, Sweep

REPORT_VERSION = 1
STEADY = 1.3  # slowest over fastest of equal runs, above which the times need a caveat
IN_TURN = "without the cache and every point in turn after a warm-up"


def results(
    sweep: Sweep, x: Axis, y: Axis | None, what: str, about: dict[str, Any]
) -> dict[str, Any]:
    """The report of a sweep, as far as it got.

    what: what was timed, in words. about: further entries, such as the prompt.
    """
    evaluations = max((counts(side)["evaluations"] for side in sweep.sides), default=0)
    every = [side_json(side, sweep, evaluations) for side in sweep.everyone]
    often = "once each" if sweep.repeats == 1 else f"median of {sweep.repeats}"
    spreads = [max(s.seconds) / min(s.seconds) for s in sweep.everyone if s.seconds]
    return {
        "version": REPORT_VERSION,
        **about,
        "x": axis_json(x),
        "y": None if y is None else axis_json(y),
        "repeats": sweep.repeats,
        "timed": f"{what}; {often}, {IN_TURN}",
        "spread": max(spreads, default=1.0),
        "repeatable": all(side.repeatable for side in sweep.everyone),
        "reference": every[0],
        "points": every[1:],
    }


def axis_json(axis: Axis) -> dict[str, Any]:
    return {"setting": axis.setting, "values": [shown(value) for value in axis.values]}


def counts(side: Side) -> dict[str, int]:
    """Evaluations of the model in one run, by the reports of its sampling runs."""
    runs = side.typical_runs
    return {key: sum(run[key] for run in runs) for key in ("evaluations", "computed", "skipped")}


def side_json(side: Side, sweep: Sweep, evaluations: int) -> dict[str, Any]:
    """One side's figures.

    evaluations: of a whole run, for sides that no cache watched: they computed all of them.
    status: done, failed, or not sampled.
    """
    status = "failed" if side.error else "done" if side.seconds else "not sampled"
    data: dict[str, Any] = {"label": side.label, "status": status, "error": side.error or None}
    if side.point is not None:
        settings = dict(side.point.settings)
        place = {"column": side.point.column, "row": side.point.row}
        data = {"settings": settings, **place, **data}
    if status != "done":
        return data
    counted = counts(side)
    if not counted["evaluations"]:
        counted = {"evaluations": evaluations, "computed": evaluations, "skipped": 0}
    data |= {"seconds": side.median, "all_seconds": side.seconds, **counted}
    if side.point is not None:
        data |= {
            "speedup": sweep.reference.median / side.median,
            **(side.similarity or {}),
            "bytes_held": max((run["bytes_held"] for run in side.typical_runs), default=0),
            "runs": side.typical_runs,
        }
    return data


def table(report: dict[str, Any]) -> str:
    """A row for the reference and for each point; what could not run says why, in its own line."""
    points, reference = report["points"], report["reference"]
    perceptual = any(point.get("lpips") is not None for point in points)
    header = ["", "time", "computed", "speed-up", "PSNR", "SSIM"]
    header += ["LPIPS", "held"] if perceptual else ["held"]
    computed = f"{reference['computed']} of {reference['evaluations']}"
    if not reference["evaluations"]:
        computed = "all"
    first = [reference["label"], f"{reference['seconds']:.2f} s", computed]
    rows = [header, first + [""] * (len(header) - len(first))]
    rows += [row(point, perceptual) for point in points if point["status"] == "done"]
    lines = [aligned(rows)]
    for point in points:
        if point["status"] == "failed":
            lines.append(f"{point['label']}: cannot run: {point['error']}")
        elif point["status"] == "not sampled":
            lines.append(f"{point['label']}: not sampled")
    return "\n".join(lines)


def row(point: dict[str, Any], perceptual: bool) -> list[str]:
    cells = [
        point["label"],
        f"{point['seconds']:.2f} s",
        f"{point['computed']} of {point['evaluations']}" if point["evaluations"] else "all",
        f"{point['speedup']:.2f}x",
        noise(point),
        "" if point["ssim"] is None else f"{point['ssim']:.4f}",
    ]
    if perceptual:
        cells.append("" if point["lpips"] is None else f"{point['lpips']:.4f}")
    return [*cells, held(point["bytes_held"])]


def held(count: int) -> str:
    """Bytes in words."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.0f} kB"


def noise(point: dict[str, Any]) -> str:
    """A point's PSNR in words."""
    return "identical" if point["identical"] else f"{point['psnr']:.1f} dB"


def notes(report: dict[str, Any]) -> list[str]:
    """What a reader of the figures has to know, a sentence each."""
    found = [f"Timed: {report['timed']}."]
    if report["spread"] > STEADY:
        found.append(
            f"Equal runs differed by up to {report['spread']:.1f}x in time, as when other "
            "programs are busy: compare the steps computed as well."
        )
    if not report["repeatable"]:
        found.append("Repeats of the same run differ: part of the difference is noise.")
    for point in report["points"]:
        for run in point.get("runs", []):
            found += [f"{point['label']}: {warning}" for warning in run["warnings"]]
            found += [run["evidence"]] if run["evidence"] else []
    return list(dict.fromkeys(found))
