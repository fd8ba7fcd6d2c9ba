"""What `teacache run` gives: its report and its output."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import write_json
from ..workflows.graph import Graph, describe
from .options import usable_folder

if TYPE_CHECKING:
    from ..hosts.comfyui.headless.session import GraphResult

REPORT_VERSION = 1


def check_report(report: Path | None) -> None:
    """`UserError` if --report is a folder."""
    if report is not None and report.is_dir():
        raise UserError(f"--report {report}: is a folder; name a file")


def make_folders(out: Path, report: Path | None) -> None:
    """Makes the folders for the files and the report; `UserError` where that is impossible."""
    usable_folder(out, "--out")
    if report is not None:
        usable_folder(report.parent, "--report")


def write_report(
    path: Path, workflow: Path, started: float, status: str, entries: dict[str, Any]
) -> None:
    """Writes the report of a run.

    Args:
        path: of the report.
        workflow: the file that ran.
        started: when, in seconds since the epoch.
        status: "success", "failed" or "interrupted".
        entries: the rest of the report.
    """
    head = {"version": REPORT_VERSION, "workflow": workflow.name, "started": round(started, 3)}
    write_json(path, head | {"status": status} | entries)


def result_json(result: GraphResult, out: Path) -> dict[str, Any]:
    """The time, the files relative to `out`, and the reports of the caches."""
    return {
        "seconds": result.seconds,
        "files": {
            node: [file.relative_to(out).as_posix() for file in files]
            for node, files in result.files.items()
        },
        "runs": result.reports,
    }


def print_result(graph: Graph, result: GraphResult) -> None:
    """Prints the caches' summaries, the files and the time."""
    files = [
        (describe(graph, node) if node in graph else "", file)
        for node, paths in result.files.items()
        for file in paths
    ]
    print(result_text(result.reports, files, result.seconds))


def result_text(
    reports: list[dict[str, Any]], files: list[tuple[str, Path]], seconds: float
) -> str:
    """The caches' summaries, the files, each with what describes its node, and the time."""
    lines = []
    for report in reports:
        lines.append(report["summary"])
        lines += [f"  {line}" for line in (report["advice"], *report["warnings"]) if line]
    lines += [f"{label}: {file}" if label else f"{file}" for label, file in files]
    return "\n".join([*lines, f"done in {seconds:.1f} s"])
