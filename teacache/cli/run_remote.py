"""`teacache run --server`: a workflow on running ComfyUI servers, in variations if asked for."""

from __future__ import annotations

import argparse
import asyncio
import copy
import itertools
import sys
import time
from collections import deque
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ExecutionError, UserError
from ..files import write_json
from ..workflows.editor_format import to_graph
from ..workflows.graph import Graph, as_graph, assign, describe, is_editor_format, parse_assignment
from .options import say, usable_folder
from .progress import Bars

if TYPE_CHECKING:
    from ..hosts.comfyui.headless.session import GraphResult
    from ..hosts.comfyui.remote import RemoteHost

REPORT_VERSION = 1


@dataclass
class Variation:
    """One run of the workflow with some inputs of its own, and what came of it."""

    number: int
    settings: list[str]
    graph: Graph
    folder: Path
    server: str = ""
    result: GraphResult | None = None
    failure: ExecutionError | None = None

    def to_json(self, out: Path) -> dict[str, Any]:
        entry: dict[str, Any] = {"server": self.server, "settings": self.settings}
        if self.result is None:
            error = "not run" if self.failure is None else str(self.failure)
            return entry | {"status": "failed", "error": error}
        files = {
            node: [file.relative_to(out).as_posix() for file in paths]
            for node, paths in self.result.files.items()
        }
        runs = self.result.reports
        return entry | {
            "status": "success",
            "seconds": self.result.seconds,
            "files": files,
            "runs": runs,
        }


def run_remote(args: argparse.Namespace, data: dict[str, Any]) -> int:
    for file in args.upload:
        if not file.is_file():
            raise UserError(f"--upload {file}: no such file")
    if args.report and args.report.is_dir():
        raise UserError(f"--report {args.report}: is a folder; name a file")
    choices = [parse_choices(text) for text in args.vary]
    try:
        import aiohttp  # noqa: F401
    except ImportError:
        raise UserError("--server needs aiohttp: pip install aiohttp") from None
    started = time.time()
    variations = asyncio.run(run_on_servers(args, data, choices))
    if args.report:
        failed = any(variation.result is None for variation in variations)
        report = {
            "version": REPORT_VERSION,
            "workflow": args.workflow.name,
            "started": round(started, 3),
            "seconds": time.time() - started,
            "status": "failed" if failed else "success",
            "results": [variation.to_json(args.out) for variation in variations],
        }
        write_json(args.report, report)
    return print_variations(variations, args.verbose)


def parse_choices(text: str) -> list[str]:
    """`NODE.INPUT=A|B` as the settings NODE.INPUT=A and NODE.INPUT=B."""
    target, equals, values = text.partition("=")
    if not equals or "." not in target:
        raise UserError(f"--vary {text}: write NODE.INPUT=A|B, such as KSampler.seed=1|2|3")
    return [f"{target}={value}" for value in values.split("|")]


async def run_on_servers(
    args: argparse.Namespace, data: dict[str, Any], choices: list[list[str]]
) -> list[Variation]:
    """Every combination of `choices` in the order given, each run on one of the servers."""
    from ..hosts.comfyui.remote import RemoteHost

    source = args.workflow.name
    async with AsyncExitStack() as stack:
        hosts = [await stack.enter_async_context(RemoteHost(url)) for url in args.servers]
        definitions = await hosts[0].definitions()
        if is_editor_format(data):
            data = to_graph(data, definitions, source)
        graph = as_graph(data, source)
        variations = []
        combinations = list(itertools.product(*choices))
        for number, chosen in enumerate(combinations, start=1):
            folder = args.out / f"{number:03}" if len(combinations) > 1 else args.out
            varied = with_settings(graph, [*args.settings, *chosen], definitions)
            variations.append(Variation(number, list(chosen), varied, folder))
        usable_folder(args.out, "--out")
        if args.report:
            usable_folder(args.report.parent, "--report")
        for host, file in itertools.product(hosts, args.upload):
            say(f"{host.url}: {await host.upload(file)}")
        await share(hosts, variations)
        return variations


def with_settings(graph: Graph, settings: list[str], definitions: dict[str, Any]) -> Graph:
    """A copy of `graph` with `--set` and `--vary` values in it."""
    graph = copy.deepcopy(graph)
    for text in settings:
        assignment = parse_assignment(graph, text)
        kind = graph[assignment.node]["class_type"]
        if kind not in definitions:
            raise UserError(f"node {describe(graph, assignment.node)}: the server does not know it")
        groups = definitions[kind]["input"]
        specs = {**groups.get("required", {}), **groups.get("optional", {})}
        types = {name: "COMBO" if isinstance(s[0], list) else s[0] for name, s in specs.items()}
        assign(graph, assignment, types)
    return graph


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


def print_variations(variations: list[Variation], verbose: bool) -> int:
    """What each gave, as lines; 0 if all succeeded, else 1."""
    status = 0
    for variation in variations:
        if len(variations) > 1:
            print(f"{variation.number:03} {', '.join(variation.settings)} on {variation.server}")
        if variation.result is None:
            status = 1
            failure = variation.failure
            if verbose and failure is not None:
                print(failure.details, file=sys.stderr)
            print(f"teacache: {variation.server}: {failure}", file=sys.stderr)
            continue
        for report in variation.result.reports:
            print(report["summary"])
            for sentence in filter(None, [report["advice"], *report["warnings"]]):
                print(f"  {sentence}")
        for node, files in variation.result.files.items():
            for file in files:
                print(f"{describe(variation.graph, node)}: {file}")
        print(f"done in {variation.result.seconds:.1f} s")
    return status
