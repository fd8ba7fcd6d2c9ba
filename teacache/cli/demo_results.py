"""The demo's results: pictures, a report, and a table on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..comparison.results import Figures, caveats, figures, repeatable, spread, table
from ..files import write_json
from ..workflows.edits import uncached
from ..workflows.graph import Graph, find_node
from .pictures import cache_label, write_comparison, write_pictures, write_timeline

if TYPE_CHECKING:
    from torch import Tensor

    from ..comparison import Comparison

REPORT_VERSION = 1
FILES = ("uncached.png", "cached.png", "comparison.png", "timeline.png", "report.json")
TIMED = (
    "the sampler node's own time: models loaded, without text encoding, decoding and saving; "
    "median of {repeats}, uncached and cached in turn after a warm-up"
)


def report_json(graph: Graph, comparison: Comparison) -> dict[str, Any]:
    """The report; `graph` is the cached one."""

    def inputs(node: str) -> dict[str, Any]:
        values: dict[str, Any] = graph[find_node(graph, node)]["inputs"]
        return values

    reference, cached = figures(comparison)
    sampler = inputs("KSampler")
    (run,) = cached["runs"]
    return {
        "version": REPORT_VERSION,
        "prompt": inputs("Prompt")["text"],
        "negative": inputs("Negative prompt")["text"],
        "seed": sampler["seed"],
        "timed": TIMED.format(repeats=comparison.repeats),
        "uncached": {key: reference[key] for key in ("seconds", "all_seconds")},
        "cached": {
            "seconds": cached["seconds"],
            "all_seconds": cached["all_seconds"],
            "steps": sampler["steps"],
            "skipped": run["skipped"],
            "threshold": run["threshold"],
        },
        **{key: cached[key] for key in ("speedup", "identical", "psnr", "ssim")},
        "repeatable": repeatable(comparison),
        "run": run,
    }


def write_results(
    out: Path,
    report: dict[str, Any],
    graph: Graph,
    comparison: Comparison,
    pictures: list[Tensor],
) -> None:
    """Write the files of `FILES`.

    Args:
        graph: the cached one.
        pictures: of the reference and of the cached variant, [1, H, W, C].
    """
    write_pictures(out, "uncached", pictures[0], uncached(graph))
    write_pictures(out, "cached", pictures[1], graph)
    write_comparison(out, (pictures[0][0], pictures[1][0]), *rows(comparison))
    write_timeline(out, report["run"])
    write_json(out / "report.json", report)


def rows(comparison: Comparison) -> tuple[Figures, Figures]:
    """The figures of the reference and of the cached variant, labelled by its threshold."""
    reference, cached = figures(comparison)
    return reference, cached | {"label": cache_label(cached["runs"][0])}


def print_results(out: Path, report: dict[str, Any], comparison: Comparison) -> None:
    print(f"\n{table(rows(comparison))}\n")
    print(f"Prompt {report['prompt']!r}, seed {report['seed']}. Timed: {report['timed']}.")
    run, remarks = report["run"], caveats(spread(comparison), report["repeatable"])
    for sentence in filter(None, [run["advice"], *run["warnings"], *remarks]):
        print(sentence)
    print(f"Pictures and report: {out}")
    for name in FILES:
        print(f"  {name}")
