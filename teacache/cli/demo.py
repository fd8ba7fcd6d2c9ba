"""`teacache demo`: the quick start, uncached and cached, compared."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from ..config import MAX_THRESHOLD
from ..hosts.comfyui.headless.boot import PACK, find_comfyui
from ..workflows.edits import set_inputs
from ..workflows.graph import Graph, as_graph, find_node, read_workflow
from .demo_results import print_results, report_json, write_results
from .options import MAX_SEED, add_host_options, number, say, usable_folder, whole_number
from .progress import RunBars

WORKFLOW = PACK / "workflows" / "api" / "quickstart.json"
REPEATS = 3


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "demo",
        help="sample the demo model with and without the cache, and compare",
        description="Samples the demo model that comes with this pack, without and with the "
        "cache, same prompt and seed, and writes pictures, a timeline and a report.",
    )
    parser.add_argument("--prompt", help="what to draw (default: the workflow's)")
    parser.add_argument("--negative", help="what to keep away from")
    parser.add_argument("--seed", type=whole_number(0, MAX_SEED), help="of the noise")
    parser.add_argument("--steps", type=whole_number(1, 10_000), help="sampling steps")
    parser.add_argument(
        "--threshold",
        type=number(0, MAX_THRESHOLD),
        help="rel_l1_thresh of Apply TeaCache: higher skips more, 0 turns the cache off",
    )
    parser.add_argument(
        "--repeats",
        type=whole_number(1, 100),
        default=REPEATS,
        help="timed runs of each kind (default: %(default)s)",
    )
    add_host_options(parser, out="output/quickstart")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    comfyui = find_comfyui(args.comfyui)
    out = usable_folder(args.out, "--out")
    graph = demo_graph(args)
    cache = find_node(graph, "ApplyTeaCache")
    picture = graph[find_node(graph, "SaveImage")]["inputs"]["images"]

    from ..comparison import compare_with_uncached
    from ..hosts.comfyui.headless.backend import WorkflowSamplingBackend
    from ..hosts.comfyui.headless.session import Session

    with tempfile.TemporaryDirectory(prefix="teacache-demo-") as folder:
        say("loading ComfyUI …")
        session = Session(comfyui, Path(folder), verbose=args.verbose)
        backend = WorkflowSamplingBackend(session, graph, [cache], picture)
        say("loading the demo model …")
        with RunBars() as bars:
            comparison, pictures = compare_with_uncached(
                backend, args.repeats, bars, with_lpips=False
            )
    report = report_json(graph, comparison)
    write_results(out, report, graph, comparison, pictures)
    print_results(out, report, comparison)
    return 0


def demo_graph(args: argparse.Namespace) -> Graph:
    """The quick start with the command's options in it."""
    graph = as_graph(read_workflow(WORKFLOW), WORKFLOW.name)
    exact = None if args.threshold is None else False  # not the recommended threshold
    inputs = (
        ("Prompt", "text", args.prompt),
        ("Negative prompt", "text", args.negative),
        ("KSampler", "seed", args.seed),
        ("KSampler", "steps", args.steps),
        ("ApplyTeaCache", "rel_l1_thresh", args.threshold),
        ("ApplyTeaCache", "auto_threshold", exact),
    )
    set_inputs(graph, inputs)
    return graph
