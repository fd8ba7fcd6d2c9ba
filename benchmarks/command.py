"""What the commands that measure the grounds share: their options, and ComfyUI around the work."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.grounds import GROUNDS, Ground
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
