"""What the commands that measure the grounds share: their options, and ComfyUI around the work."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.grounds import GROUNDS, Ground
from teacache.errors import UserError
from teacache.hosts.comfyui.headless.boot import boot, find_comfyui


def options(
    doc: str | None, results: Path, pairs: int, models: Sequence[str] = ()
) -> argparse.ArgumentParser:
    """A parser of the usual options.

    Args:
        doc: of the module; its first line describes the command.
        results: the page that `--write` writes.
        pairs: usual number of captions and seeds of each ground.
        models: that `--models` chooses among; none for no such option.
    """
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=pairs, help="captions and seeds of each")
    if models:
        parser.add_argument("--models", nargs="+", choices=models, default=models)
    parser.add_argument("--comfyui", type=Path)
    parser.add_argument("--write", action="store_true", help=f"write {results.name}")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line; from here on one thread computes."""
    args = parser.parse_args()
    if args.pairs < 1:
        parser.error(f"--pairs must be at least 1, not {args.pairs}")
    torch.set_num_threads(1)
    return args


@contextmanager
def comfyui(args: argparse.Namespace) -> Iterator[None]:
    """ComfyUI in this process, with its output in a folder that is removed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        boot(find_comfyui(args.comfyui), Path(folder))
        yield


def euler_grounds(models: Sequence[str]) -> list[Ground]:
    """The grounds of some models that are sampled with Euler steps."""
    return [each for each in GROUNDS if each.model in models and each.sampler == "euler"]


def with_rows_of(page: Path, command: str, rows: Sequence[list[str]]) -> list[list[str]]:
    """The rows of a page, in the order of the grounds, with `rows` in place of the same grounds'.

    Args:
        page: a page with a table whose rows begin with the heading of a ground.
        command: that the page must say it was made with, so that all rows are of as many pairs.
        rows: measured now.

    Raises:
        UserError: the page was made with another command.
    """
    lines = page.read_text(encoding="utf-8").splitlines()
    if not any(f"`{command}`" in line for line in lines):
        raise UserError(f"{page.name} was not made with {command}: measure all models")
    new = {row[0] for row in rows}
    old = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines]
    names = [ground.heading for ground in GROUNDS]
    kept = [row for row in old if row[0] in names and row[0] not in new]
    return sorted([*kept, *rows], key=lambda row: names.index(row[0]))
