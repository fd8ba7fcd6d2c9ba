"""Options of `serve` for replicas on Ray, and what is made of them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .options import number, whole_number

if TYPE_CHECKING:
    from ..serving.cluster import Replicas

MOST_REPLICAS = 1000
AUTO = "auto"


def add_replica_options(group: Any) -> None:
    group.add_argument(
        "--ray",
        nargs="?",
        const=AUTO,
        metavar="auto|ADDRESS|local",
        help="sample on replicas, each with the model: on the Ray cluster with its head at ADDRESS "
        "(HOST:PORT); auto: $RAY_ADDRESS, else the cluster that this machine is in, else as local: "
        "a Ray of this machine that ends with the server",
    )
    group.add_argument(
        "--replicas", type=whole_number(1, MOST_REPLICAS), metavar="N", help="(default: 1)"
    )
    group.add_argument(
        "--min-replicas",
        type=whole_number(0, MOST_REPLICAS),
        metavar="N",
        help="scale by the requests there are, from N (default: 1)",
    )
    group.add_argument(
        "--max-replicas", type=whole_number(1, MOST_REPLICAS), metavar="N", help="up to N"
    )
    group.add_argument(
        "--target-requests",
        type=number(0.1, 1000),
        metavar="X",
        help="requests for each replica, sampled or waiting, that scaling aims at (default: 2)",
    )
    group.add_argument(
        "--scale-up-after",
        type=number(0, 86_400),
        metavar="SECONDS",
        help="for which more replicas must have been needed (default: 10)",
    )
    group.add_argument(
        "--scale-down-after",
        type=number(0, 86_400),
        metavar="SECONDS",
        help="for which fewer must have been enough (default: 300)",
    )
    group.add_argument(
        "--gpus-per-replica",
        type=number(0, 64),
        metavar="X",
        help="also a fraction, such as 0.5 (default: 1 where the cluster has GPUs)",
    )
    group.add_argument("--cpus-per-replica", type=number(0, 1024), metavar="X", help="(default: 1)")


SCALING = ("max_replicas", "min_replicas", "target_requests", "scale_up_after", "scale_down_after")
FIELDS = {
    "target_requests": "target",
    "scale_up_after": "up_seconds",
    "scale_down_after": "down_seconds",
    "gpus_per_replica": "gpus",
    "cpus_per_replica": "cpus",
}
"""{option: the field of `Replicas`}."""


def option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def check_replica_options(args: argparse.Namespace) -> None:
    """Refuses options that do not go together."""
    given = vars(args)
    for name in ("replicas", *SCALING, *FIELDS):
        if args.ray is None and given[name] is not None:
            raise UserError(f"{option(name)}: needs --ray")
    for name in SCALING:
        if args.replicas is not None and given[name] is not None:
            raise UserError(f"{option(name)}: not together with --replicas, a fixed number")
        if args.max_replicas is None and given[name] is not None:
            raise UserError(f"{option(name)}: needs --max-replicas N")
    if args.max_replicas is not None and (args.min_replicas or 0) > args.max_replicas:
        raise UserError(
            f"--min-replicas {args.min_replicas}: is above --max-replicas {args.max_replicas}"
        )


def replicas_of(args: argparse.Namespace) -> Replicas:
    from ..serving.cluster import Replicas

    given = vars(args)
    chosen = {field: given[name] for name, field in FIELDS.items() if given[name] is not None}
    if args.max_replicas is None:
        return Replicas(args.replicas or 1, args.replicas or 1, **chosen)
    least = 1 if args.min_replicas is None else args.min_replicas
    return Replicas(least, args.max_replicas, **chosen)
