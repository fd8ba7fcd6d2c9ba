"""`--ray` and the options beside it, and the pool of workers that they stand for."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence

from ..errors import UserError
from ..jobs import LocalPool, Pool, WorkerSpec
from ..jobs.cluster import AUTO, LOCAL, Share, joined, share_of
from ..jobs.scheduler import RETRIES
from .options import number, say, whole_number

MOST_WORKERS = 10_000


def add_ray_options(parser: argparse.ArgumentParser) -> None:
    """Adds --ray, --workers, --gpus-per-worker and --retries; None unless given."""
    group = parser.add_argument_group("on many devices (needs the extra 'ray')")
    group.add_argument(
        "--ray",
        nargs="?",
        const=AUTO,
        type=ray_address,
        metavar="WHERE",
        help="run on Ray: 'auto' (a cluster that runs, else one of this machine; so without a "
        "value), 'local' or HOST:PORT of a cluster",
    )
    group.add_argument(
        "--workers",
        type=whole_number(1, MOST_WORKERS),
        metavar="N",
        help="default: one on each GPU, or on each machine where there are none",
    )
    group.add_argument(
        "--gpus-per-worker",
        type=number(0, 1),
        metavar="X",
        help="a fraction puts several on one GPU, 0 runs on the CPU (default: 1 if there are GPUs)",
    )
    group.add_argument(
        "--retries",
        type=whole_number(0, 100),
        metavar="N",
        help=f"how often a job is tried again whose worker died (default: {RETRIES})",
    )


def ray_address(text: str) -> str:
    """An argparse type for --ray; refuses what is no value, such as the workflow after it."""
    if text in (AUTO, LOCAL) or "://" in text or text.rpartition(":")[2].isdigit():
        return text
    raise argparse.ArgumentTypeError(f"must be auto, local or HOST:PORT, not {text!r}")


def check_ray_options(args: argparse.Namespace) -> None:
    """`UserError` for an option that says something only with --ray."""
    for option in ("workers", "gpus_per_worker", "retries"):
        if args.ray is None and vars(args)[option] is not None:
            raise UserError(f"--{option.replace('_', '-')}: needs --ray")


def retries_of(args: argparse.Namespace) -> int:
    retries: int = RETRIES if args.retries is None else args.retries
    return retries


@contextlib.contextmanager
def opened_pool(
    args: argparse.Namespace,
    spec: Callable[[str], WorkerSpec],
    verbose: bool = False,
    servers: Sequence[str] = (),
) -> Iterator[Pool]:
    """The pool that the options stand for: of this process, or of the cluster of --ray.

    Args:
        spec: makes a worker's description from its name.
        verbose: show what Ray and the workers log.
        servers: the names of the workers, where they only speak to servers.
    """
    check_ray_options(args)
    if args.ray is None:
        yield LocalPool(spec(servers[0] if servers else "this process"))
        return
    with joined(args.ray, verbose) as cluster:
        from ..jobs.ray_pool import RayPool

        if servers:
            share = Share(len(servers), 0.0, 0.0)
            names = [*servers]
        else:
            share = share_of(cluster, args.workers, args.gpus_per_worker)
            names = [f"worker {number}" for number in range(1, share.workers + 1)]
        yield RayPool([spec(name) for name in names], cluster, share, say)
