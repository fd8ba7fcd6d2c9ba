"""`teacache insert`: Apply TeaCache put into a workflow file, or taken out of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..environment import resolve_graph_cache
from ..errors import UserError, listing
from ..workflows.edits import uncached
from ..workflows.graph import as_graph, describe, is_editor_format, read_workflow
from ..workflows.insertion import insert_cache
from ..workflows.insertion_editor import insert_into_file, remove_from_file
from ..workflows.selection import caches_in
from .caching import add_cache_option, tell
from .convert import catalog
from .options import add_file_command_options, refuse_folder, say, write_workflow


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "insert",
        help="put Apply TeaCache into a workflow file",
        description="Puts Apply TeaCache before every sampler of a workflow and writes it in the "
        "format it came in: that of the editor, with its layout, or API format.",
    )
    parser.add_argument("workflow", type=Path, metavar="WORKFLOW.json")
    add_cache_option(parser)
    parser.add_argument("--remove", action="store_true", help="take it out instead")
    add_file_command_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    refuse_folder(args.out)
    if args.remove and args.cache is not None:
        raise UserError("--cache: has no meaning with --remove")
    data, source = read_workflow(args.workflow), args.workflow.name
    changed = removed(data, source) if args.remove else inserted(data, source, args)
    write_workflow(changed, args.out)
    return 0


def inserted(data: dict[str, Any], source: str, args: argparse.Namespace) -> dict[str, Any]:
    """The workflow with Apply TeaCache; says where it was put in."""
    config = resolve_graph_cache({}, args.cache or "")
    assert config is not None
    if is_editor_format(data):
        tell(insert_into_file(data, config, catalog(args).classes, source), source)
        return data
    graph = as_graph(data, source)
    tell(insert_cache(graph, config, catalog(args).classes), source)
    return graph


def removed(data: dict[str, Any], source: str) -> dict[str, Any]:
    """The workflow without Apply TeaCache; says what was taken out."""
    if is_editor_format(data):
        nodes: list[str] = [*remove_from_file(data, source)]
    else:
        data = as_graph(data, source)
        nodes = [describe(data, node) for node in caches_in(data)]
        data = uncached(data)
    if not nodes:
        raise UserError(f"{source}: no Apply TeaCache in the workflow")
    say(f"taken out: {listing(nodes)}")
    return data
