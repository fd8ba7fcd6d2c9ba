"""`teacache run`: execute a workflow file without the editor."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ExecutionError, UserError
from ..files import write_json
from ..hosts.comfyui.headless.boot import find_comfyui
from ..workflows.editor_format import to_graph
from ..workflows.graph import (
    Graph,
    as_graph,
    assign,
    describe,
    is_editor_format,
    parse_assignment,
    read_workflow,
    title,
)
from .options import add_host_options, say, usable_folder
from .progress import Bars

if TYPE_CHECKING:
    from ..hosts.comfyui.headless.session import GraphResult, Session

REPORT_VERSION = 1


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "run",
        help="execute a workflow file, without the editor",
        description="Executes a workflow file (API format, or saved by the editor) in ComfyUI.",
    )
    parser.add_argument("workflow", type=Path, metavar="WORKFLOW.json")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="NODE.INPUT=VALUE",
        help="set an input; NODE is an id, a title or a class, VALUE is JSON or text; repeatable",
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write a report as JSON")
    parser.add_argument(
        "--custom-nodes", action="store_true", help="load the other packs of that ComfyUI as well"
    )
    remote = parser.add_argument_group("running servers")
    remote.add_argument(
        "--server",
        action="append",
        default=[],
        dest="servers",
        metavar="URL",
        help="run there instead of in this process; repeated: the servers share the variations",
    )
    remote.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="NODE.INPUT=A|B|C",
        help="run once for each value; repeated: for each combination (needs --server)",
    )
    remote.add_argument(
        "--upload",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="put a picture into the servers' input folder first (needs --server)",
    )
    add_host_options(parser, out="output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    data = read_workflow(args.workflow)
    source = args.workflow.name
    editor_format = is_editor_format(data)
    if not editor_format:  # what is wrong with the file itself is told before ComfyUI loads
        graph = as_graph(data, source)
        for text in args.settings:
            parse_assignment(graph, text)
    if args.servers:
        from .run_remote import run_remote

        return run_remote(args, data)
    for option, given in (("--vary", args.vary), ("--upload", args.upload)):
        if given:
            raise UserError(f"{option}: needs --server URL")
    comfyui = find_comfyui(args.comfyui)
    out = usable_folder(args.out, "--out")
    if args.report:
        usable_folder(args.report.parent, "--report")
        if args.report.is_dir():
            raise UserError(f"--report {args.report}: is a folder; name a file")

    from ..hosts.comfyui.headless.session import Session

    say("loading ComfyUI …")
    session = Session(comfyui, out, verbose=args.verbose, custom_nodes=args.custom_nodes)
    if editor_format:
        graph = as_graph(to_graph(data, session.definitions(), source), source)
    for text in args.settings:
        assignment = parse_assignment(graph, text)
        types = session.input_types(graph[assignment.node]["class_type"])
        if types:  # an unknown class is told by the check below
            assign(graph, assignment, types)
    session.validate(graph)
    report = execute(session, graph, args.workflow, args.report)
    print_result(graph, report)
    return 0


def execute(session: Session, graph: Graph, workflow: Path, report: Path | None) -> GraphResult:
    """Runs the graph with progress bars; writes the report however it ends."""
    started = time.time()
    base = {"version": REPORT_VERSION, "workflow": workflow.name, "started": round(started, 3)}
    try:
        with Bars() as bars:
            result = session.run(graph, bars)
    except (ExecutionError, UserError, KeyboardInterrupt) as stop:
        if report:
            failed = not isinstance(stop, KeyboardInterrupt)
            error = (
                {"status": "failed", "error": str(stop)} if failed else {"status": "interrupted"}
            )
            write_json(report, base | error | {"seconds": round(time.time() - started, 3)})
        raise
    if report:
        write_json(report, base | {"status": "success"} | result_json(session, graph, result))
    return result


def result_json(session: Session, graph: Graph, result: GraphResult) -> dict[str, Any]:
    """What ran and what came out; files are relative to the output folder."""
    return {
        "seconds": result.seconds,
        "nodes": {
            node: {
                "class_type": graph[node]["class_type"],
                "title": title(graph, node),
                "seconds": seconds,
            }
            for node, seconds in result.node_seconds.items()
            if node in graph
        },
        "files": {
            node: [file.relative_to(session.output).as_posix() for file in files]
            for node, files in result.files.items()
        },
        "runs": result.reports,
    }


def print_result(graph: Graph, result: GraphResult) -> None:
    for report in result.reports:
        print(report["summary"])
        for sentence in filter(None, [report["advice"], *report["warnings"]]):
            print(f"  {sentence}")
    for node, files in result.files.items():
        for file in files:
            print(f"{describe(graph, node)}: {file}" if node in graph else file)
    print(f"done in {result.seconds:.1f} s")
