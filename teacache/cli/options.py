"""Options that several subcommands share, and checked types for their values."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_json

MAX_SEED = 2**64 - 1
WORKFLOW_HELP = "a workflow as JSON, or a picture, film or sound that ComfyUI saved"


def add_comfyui_option(parser: Any) -> None:
    parser.add_argument(
        "--comfyui",
        type=Path,
        metavar="DIR",
        help="ComfyUI to run in (default: $COMFYUI_DIR, else the one in or around this pack)",
    )


def add_host_options(parser: argparse.ArgumentParser, out: str) -> None:
    """Adds --comfyui, --out (by default `out`) and --verbose."""
    add_comfyui_option(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path(out),
        help="folder for the results (default: %(default)s)",
    )
    parser.add_argument(
        "--verbose", action="store_true", help="show ComfyUI's log, and tracebacks of failures"
    )


def add_file_command_options(parser: argparse.ArgumentParser) -> None:
    """Adds OUT, --comfyui, --custom-nodes and --verbose: of commands that write a workflow file."""
    parser.add_argument(
        "out", type=Path, nargs="?", metavar="OUT", help="(default: standard output)"
    )
    add_comfyui_option(parser)
    parser.add_argument(
        "--custom-nodes", action="store_true", help="load the other packs of that ComfyUI as well"
    )
    parser.add_argument("--verbose", action="store_true", help="show ComfyUI's log")


def write_workflow(data: dict[str, Any], out: Path | None) -> None:
    """Writes a workflow to `out`, or to standard output if it is None."""
    if out is None:
        print(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        usable_folder(out.parent, "OUT")
        write_json(out, data)


def refuse_folder(out: Path | None) -> None:
    """`UserError` if OUT is a folder."""
    if out is not None and out.is_dir():
        raise UserError(f"{out}: is a folder; name a file")


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """An argparse type for whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        message = f"must be a whole number from {low} to {high}, not {text!r}"
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(message) from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(message)
        return value

    return parse


def number(low: float, high: float) -> Callable[[str], float]:
    """An argparse type for finite numbers from `low` to `high`."""

    def parse(text: str) -> float:
        message = f"must be a number from {low:g} to {high:g}, not {text!r}"
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(message) from None
        if not (math.isfinite(value) and low <= value <= high):
            raise argparse.ArgumentTypeError(message)
        return value

    return parse


def usable_folder(path: Path, option: str) -> Path:
    """Makes the folder `path` if it is missing; `UserError` if that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{option} {path}: cannot be a folder: {error.strerror}") from None
    return path


def refuse_file(out: Path) -> None:
    """`UserError` if --out cannot be a folder; it is made only when there is something to write."""
    for folder in (out, *out.parents):
        if folder.exists():
            if not folder.is_dir():
                raise UserError(f"--out {out}: cannot be a folder: {folder} is a file")
            if not os.access(folder, os.W_OK):
                raise UserError(f"--out {out}: {folder} cannot be written to")
            return


def say(text: str) -> None:
    """Prints a line about progress on standard error."""
    print(text, file=sys.stderr, flush=True)
