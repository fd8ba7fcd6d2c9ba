"""What `teacache run` gives: the variations of a workflow, their report, and their output."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ExecutionError, UserError
from ..files import write_json
from ..workflows.graph import Graph, describe, title
from .options import usable_folder

if TYPE_CHECKING:
    from ..hosts.comfyui.headless.session import GraphResult

REPORT_VERSION = 1


@dataclass
class Variation:
    """One run of the workflow with some inputs of its own, and what came of it.

    Attributes:
        number: from 1.
        settings: the `--vary` values of this run, as NODE.INPUT=VALUE.
        graph: with these and the `--set` values in it.
        folder: for the files.
        server: where it ran; empty for this process.
        result: of a run that succeeded.
        failure: of one that failed.
    """

    number: int
    settings: list[str]
    graph: Graph
    folder: Path
    server: str = ""
    result: GraphResult | None = None
    failure: ExecutionError | None = None


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


def nodes_json(graph: Graph, result: GraphResult) -> dict[str, Any]:
    """The class, title and time of every node of `graph` that ran."""
    return {
        node: {
            "class_type": graph[node]["class_type"],
            "title": title(graph, node),
            "seconds": seconds,
        }
        for node, seconds in result.node_seconds.items()
        if node in graph
    }


def variation_json(variation: Variation, out: Path) -> dict[str, Any]:
    """A variation's entry in the report of a run on servers."""
    entry: dict[str, Any] = {"server": variation.server, "settings": variation.settings}
    if variation.result is None:
        error = "not run" if variation.failure is None else str(variation.failure)
        return entry | {"status": "failed", "error": error}
    return entry | {"status": "success"} | result_json(variation.result, out)


def print_variations(variations: list[Variation], verbose: bool) -> int:
    """Prints what each variation gave.

    Returns:
        The exit status: 0 if all succeeded, else 1.
    """
    status = 0
    for variation in variations:
        if len(variations) > 1:
            print(f"{variation.number:03} {', '.join(variation.settings)} on {variation.server}")
        if variation.result is not None:
            print_result(variation.graph, variation.result)
            continue
        status = 1
        failure = variation.failure
        if verbose and failure is not None:
            print(failure.details, file=sys.stderr)
        print(f"teacache: {variation.server}: {failure}", file=sys.stderr)
    return status


def print_result(graph: Graph, result: GraphResult) -> None:
    """Prints the caches' summaries, the files and the time."""
    for report in result.reports:
        print(report["summary"])
        for sentence in filter(None, [report["advice"], *report["warnings"]]):
            print(f"  {sentence}")
    for node, files in result.files.items():
        for file in files:
            print(f"{describe(graph, node)}: {file}" if node in graph else file)
    print(f"done in {result.seconds:.1f} s")
