"""`teacache convert`: a workflow saved by the editor as a graph in API format."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..hosts.comfyui.headless.boot import find_comfyui
from ..workflows.load import load_workflow
from .options import (
    WORKFLOW_HELP,
    add_file_command_options,
    refuse_folder,
    say,
    write_workflow,
)

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
    add_file_command_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    refuse_folder(args.out)
    complete = load_workflow(args.workflow, lambda graph, source: graph)
    graph = complete(lambda: catalog(args))
    write_workflow(graph, args.out)
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
