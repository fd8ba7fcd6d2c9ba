"""`teacache run --server`: a workflow on running ComfyUI servers, in variations if asked for."""

from __future__ import annotations

import argparse
import asyncio
import copy
import itertools
import time
from collections import deque
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ExecutionError, UserError
from ..workflows.assignments import (
    Assignment,
    GraphWithSettings,
    apply_assignments,
    parse_assignments,
)
from ..workflows.definitions import Definitions, input_types
from ..workflows.graph import Graph, describe
from ..workflows.load import Completion
from .caching import put_cache
from .options import say
from .progress import Bars
from .run_results import (
    Variation,
    check_report,
    make_folders,
    print_variations,
    variation_json,
    write_report,
)

if TYPE_CHECKING:
    from ..config import TeaCacheConfig
    from ..hosts.comfyui.remote import RemoteHost


def run_remote(
    args: argparse.Namespace,
    complete: Completion[GraphWithSettings],
    cache: TeaCacheConfig | None,
) -> int:
    """Runs every variation of the workflow on one of the servers; returns the exit status."""
    for file in args.upload:
        if not file.is_file():
            raise UserError(f"--upload {file}: no such file")
    check_report(args.report)
    choices = [parse_choices(text) for text in args.vary]
    try:
        import aiohttp  # noqa: F401
    except ImportError:
        raise UserError("--server needs aiohttp: pip install aiohttp") from None
    started = time.time()
    variations, about = asyncio.run(run_on_servers(args, complete, choices, cache))
    if args.report:
        failed = any(variation.result is None for variation in variations)
        entries = about | {
            "seconds": time.time() - started,
            "results": [variation_json(variation, args.out) for variation in variations],
        }
        status = "failed" if failed else "success"
        write_report(args.report, args.workflow, started, status, entries)
    return print_variations(variations, args.verbose)


def parse_choices(text: str) -> list[str]:
    """`NODE.INPUT=A|B` as the settings NODE.INPUT=A and NODE.INPUT=B."""
    target, equals, values = text.partition("=")
    if not equals or "." not in target:
        raise UserError(f"--vary {text}: write NODE.INPUT=A|B, such as KSampler.seed=1|2|3")
    return [f"{target}={value}" for value in values.split("|")]


async def run_on_servers(
    args: argparse.Namespace,
    complete: Completion[GraphWithSettings],
    choices: list[list[str]],
    cache: TeaCacheConfig | None,
) -> tuple[list[Variation], dict[str, Any]]:
    """Every combination of `choices` in the order given, each run on one of the servers.

    Returns:
        The variations, and the report's entries on the cache that was put into the graph.
    """
    from ..hosts.comfyui.remote import RemoteHost

    async with AsyncExitStack() as stack:
        hosts = [await stack.enter_async_context(RemoteHost(url)) for url in args.servers]
        catalog = await hosts[0].catalog()
        graph, assignments = complete(lambda: catalog)
        assign_known(graph, assignments, catalog.classes)
        about = put_cache(graph, cache, lambda: catalog.classes, args)
        variations = vary(graph, choices, catalog.classes, args.out)
        make_folders(args.out, args.report)
        for host, file in itertools.product(hosts, args.upload):
            say(f"{host.url}: {await host.upload(file)}")
        await share(hosts, variations)
        return variations, about


def vary(
    graph: Graph, choices: list[list[str]], definitions: Definitions, out: Path
) -> list[Variation]:
    """A variation for every combination of `choices`; each in a folder of its own if several."""
    variations = []
    combinations = list(itertools.product(*choices))
    for number, chosen in enumerate(combinations, start=1):
        varied = copy.deepcopy(graph)
        assign_known(varied, parse_assignments(varied, chosen), definitions)
        folder = out / f"{number:03}" if len(combinations) > 1 else out
        variations.append(Variation(number, list(chosen), varied, folder))
    return variations


def assign_known(graph: Graph, assignments: list[Assignment], definitions: Definitions) -> None:
    """Applies the assignments; `UserError` where the server does not know the node's class."""
    for assignment in assignments:
        if graph[assignment.node]["class_type"] not in definitions:
            raise UserError(f"node {describe(graph, assignment.node)}: the server does not know it")
    apply_assignments(graph, assignments, lambda kind: input_types(definitions[kind]["input"]))


async def share(hosts: list[RemoteHost], variations: list[Variation]) -> None:
    """Each server takes the next variation as it gets free; a lost server's goes to the others."""
    waiting = deque(variations)
    several = len(variations) > 1
    while waiting:
        tasks = [asyncio.create_task(work(host, waiting, several)) for host in hosts]
        try:
            alive = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        hosts = [host for host, answers in zip(hosts, alive, strict=True) if answers]
        if waiting and not hosts:
            for variation in waiting:
                variation.failure = ExecutionError("no server is left that answers")
            return


async def work(host: RemoteHost, waiting: deque[Variation], several: bool) -> bool:
    """Runs what is waiting, one after the other; whether the server still answers at the end."""
    from ..hosts.comfyui.remote import ServerLost

    while waiting:
        variation = waiting.popleft()
        variation.server = host.url
        try:
            with Bars(f"{variation.number:03}" if several else None) as bars:
                variation.result = await host.run(variation.graph, variation.folder, bars)
        except ExecutionError as failure:
            variation.failure = failure
        except ServerLost as lost:
            waiting.appendleft(variation)
            say(f"{lost}")
            return False
        except asyncio.CancelledError:
            await host.stop()
            raise
    return True
