"""`teacache convert`: a workflow saved by the editor as a graph in API format."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import write_json
from ..hosts.comfyui.headless.boot import find_comfyui
from ..workflows.load import load_workflow
from .options import WORKFLOW_HELP, add_comfyui_option, say, usable_folder

if TYPE_CHECKING:
    from ..workflows.definitions import Catalog


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "convert",
        help="turn a workflow saved by the editor into API format",
        description="Converts a workflow saved by the editor into API format, by the node "
        "definitions of a ComfyUI. A file in API format, and the prompt in a picture or film that "
        "ComfyUI saved, is only checked and copied.",
    )
    parser.add_argument("workflow", type=Path, metavar="WORKFLOW", help=WORKFLOW_HELP)
    parser.add_argument(
        "out", type=Path, nargs="?", metavar="OUT", help="(default: standard output)"
    )
    add_comfyui_option(parser)
    parser.add_argument(
        "--custom-nodes", action="store_true", help="load the other packs of that ComfyUI as well"
    )
    parser.add_argument("--verbose", action="store_true", help="show ComfyUI's log")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.out is not None and args.out.is_dir():
        raise UserError(f"{args.out}: is a folder; name a file")
    complete = load_workflow(args.workflow, lambda graph, source: graph)
    graph = complete(lambda: catalog(args))
    if args.out is None:
        print(json.dumps(graph, indent=2, ensure_ascii=False))
    else:
        usable_folder(args.out.parent, "OUT")
        write_json(args.out, graph)
    return 0


def catalog(args: argparse.Namespace) -> Catalog:
    """The node classes of the chosen ComfyUI."""
    comfyui = find_comfyui(args.comfyui)

    from ..hosts.comfyui.headless.session import Session

    say("loading ComfyUI …")
    # What packs print while they load does not belong to the graph.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        session = Session(
            comfyui, Path(folder), verbose=args.verbose, custom_nodes=args.custom_nodes
        )
        return session.catalog()
