"""`--cache`, and the cache that it puts into a workflow."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..environment import BACKEND_VARIABLE, parse_cache
from ..errors import UserError
from ..workflows.definitions import Definitions
from ..workflows.graph import Graph
from ..workflows.insertion import Outcome, insert_cache
from .options import say

if TYPE_CHECKING:
    from ..config import TeaCacheConfig


def add_cache_option(parser: argparse.ArgumentParser) -> None:
    """Adds --cache, whose value may be left out: None if absent, empty if without a value."""
    parser.add_argument(
        "--cache",
        nargs="?",
        const="",
        type=cache_value,
        metavar="SETTINGS",
        help="put Apply TeaCache before every sampler: a threshold (0.2), a speed-up (2.0x), a "
        "preset (balanced), JSON settings, or nothing for the defaults",
    )


def cache_value(text: str) -> str:
    """An argparse type for --cache; refuses what is no value, such as the workflow after it."""
    parse_cache(text)
    return text


def put_cache(
    graph: Graph,
    cache: TeaCacheConfig | None,
    definitions: Callable[[], Definitions],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Puts the cache into `graph` and says where.

    Args:
        graph: changed in place.
        cache: the settings; None to leave the graph as it is.
        definitions: returns the node definitions.
        args: of the command: its workflow, and --cache if that was given.

    Returns:
        The report's entry on it, if there is any.

    Raises:
        UserError: --cache was given and no node samples a model. A graph for which the environment
            asks for the cache runs as it is then.
    """
    if cache is None:
        return {}
    return cache_entry(insert_cache(graph, cache, definitions()), args)


def cache_entry(outcome: Outcome, args: argparse.Namespace) -> dict[str, Any]:
    """Says where the cache was put, and gives the report's entry on it; as `put_cache`."""
    if args.cache is None and not outcome:
        say(f"{BACKEND_VARIABLE}: no node of {args.workflow.name} samples a model")
    else:
        tell(outcome, args.workflow.name)
    return {"cache": outcome.to_json()}


def tell(outcome: Outcome, source: str) -> None:
    """Says where Apply TeaCache was put in, or that the workflow has it.

    Raises:
        UserError: neither, as no node samples a model.
    """
    if not outcome:
        raise UserError(
            f"{source}: no node of the workflow samples a model: Apply TeaCache has no place in it"
        )
    for line in outcome.lines():
        say(line)
