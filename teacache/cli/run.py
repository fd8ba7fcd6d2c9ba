"""`teacache run`: execute a workflow file without the editor."""

from __future__ import annotations

import argparse
import functools
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..environment import resolve_graph_cache
from ..errors import ExecutionError, UserError
from ..hosts.comfyui.graph_jobs import nodes_json
from ..hosts.comfyui.headless.boot import find_comfyui
from ..workflows.assignments import GraphWithSettings, apply_assignments, parse_assignments
from ..workflows.graph import Graph
from ..workflows.load import Completion, load_workflow
from .caching import add_cache_option, put_cache
from .job_plan import add_plan_options, has_jobs
from .options import WORKFLOW_HELP, add_host_options, say
from .progress import Bars
from .ray_options import add_ray_options, check_ray_options
from .run_results import (
    check_report,
    make_folders,
    print_result,
    result_json,
    write_report,
)

if TYPE_CHECKING:
    from ..config import TeaCacheConfig
    from ..hosts.comfyui.headless.session import GraphResult, Session
    from ..hosts.comfyui.headless.validation import ValidGraph


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "run",
        help="execute a workflow file, without the editor",
        description="Executes a workflow file (API format, or saved by the editor) in ComfyUI.",
    )
    parser.add_argument("workflow", type=Path, metavar="WORKFLOW", help=WORKFLOW_HELP)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="NODE.INPUT=VALUE",
        help="set an input; NODE is an id, a title or a class, VALUE is JSON or text; repeatable",
    )
    add_cache_option(parser)
    parser.add_argument("--report", type=Path, metavar="FILE", help="write a report as JSON")
    parser.add_argument(
        "--custom-nodes", action="store_true", help="load the other packs of that ComfyUI as well"
    )
    add_plan_options(parser, "NODE.INPUT", "KSampler.seed=1|2|3")
    add_ray_options(parser)
    remote = parser.add_argument_group("running servers")
    remote.add_argument(
        "--server",
        action="append",
        default=[],
        dest="servers",
        metavar="URL",
        help="run there instead of in this process; several share the jobs, with --ray",
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
    cache = resolve_graph_cache(os.environ, args.cache)
    if args.servers or args.ray is not None or has_jobs(args):
        from .run_jobs import run_jobs

        return run_jobs(args, cache)

    def prepare(graph: Graph, source: str) -> GraphWithSettings:
        return graph, parse_assignments(graph, args.settings)

    complete = load_workflow(args.workflow, prepare)
    check_ray_options(args)
    if args.upload:
        raise UserError("--upload: needs --server URL")
    return run_here(args, complete, cache)


def run_here(
    args: argparse.Namespace,
    complete: Completion[GraphWithSettings],
    cache: TeaCacheConfig | None,
) -> int:
    """Runs the workflow once in this process, with `cache` put into its graph if there is one."""
    comfyui = find_comfyui(args.comfyui)
    check_report(args.report)
    make_folders(args.out, args.report)

    from ..hosts.comfyui.headless.session import Session

    say("loading ComfyUI …")
    session = Session(comfyui, args.out, verbose=args.verbose, custom_nodes=args.custom_nodes)
    catalog = functools.cache(session.catalog)
    graph, assignments = complete(catalog)
    apply_assignments(graph, assignments, session.input_types)
    entries = put_cache(graph, cache, lambda: catalog().classes, args)
    result = execute(session, session.validate(graph), args.workflow, args.report, entries)
    print_result(graph, result)
    return 0


def execute(
    session: Session,
    valid: ValidGraph,
    workflow: Path,
    report: Path | None,
    about: dict[str, Any],
) -> GraphResult:
    """Runs the graph with progress bars; writes the report, with `about`, however it ends."""
    started = time.time()

    def write(status: str, entries: dict[str, Any]) -> None:
        if report is not None:
            write_report(report, workflow, started, status, about | entries)

    try:
        with Bars() as bars:
            result = session.execute(valid, bars)
    except (ExecutionError, UserError) as failure:
        write("failed", {"error": str(failure), "seconds": round(time.time() - started, 3)})
        raise
    except KeyboardInterrupt:
        write("interrupted", {"seconds": round(time.time() - started, 3)})
        raise
    nodes = {"nodes": nodes_json(valid.graph, result)}
    write("success", nodes | result_json(result, session.output))
    return result
