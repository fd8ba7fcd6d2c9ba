"""The results of `teacache generate`: pictures, a report, and a table on the terminal."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..comparison.results import Figures, figures, table
from ..files import write_json
from .pictures import cache_label, write_comparison, write_pictures, write_timeline

if TYPE_CHECKING:
    from torch import Tensor

    from ..comparison import Comparison, Sample
    from ..hosts.diffusers.generation import Request

REPORT_VERSION = 1
MEASURED = ("speedup", "identical", "psnr", "ssim", "lpips", "lpips_backbone")


@dataclass(frozen=True)
class Generation:
    """What was sampled.

    Args:
        pictures: [B, H, W, C].
        run: the cache's report, None without a cache.
        notes: sentences for the user.
        uncached: the pictures without the cache, where they are compared.
        rows: the figures of the uncached and of the cached run, where they are compared.
    """

    pictures: Tensor
    seconds: float
    run: dict[str, Any] | None
    notes: list[str]
    uncached: Tensor | None = None
    rows: tuple[Figures, Figures] | None = None

    @classmethod
    def of(cls, sample: Sample) -> Generation:
        """A single run."""
        run = sample.runs[0] if sample.runs else None
        return cls(sample.pictures, sample.seconds, run, sample.notes)

    @classmethod
    def compared(cls, comparison: Comparison, pictures: list[Tensor]) -> Generation:
        """The cached run of a comparison with one run of each."""
        (variant,) = comparison.variants
        (run,) = variant.typical_runs
        reference, cached = figures(comparison)
        rows = reference, cached | {"label": cache_label(run)}
        return cls(pictures[1], variant.median, run, variant.notes, pictures[0], rows)


def describe_run(
    model: str, pipe: Any, request: Request, image: Path | None, device: Any, started: float
) -> dict[str, Any]:
    """The request, as the report names it."""
    return {
        "version": REPORT_VERSION,
        "started": round(started, 3),
        "wall_seconds": time.time() - started,
        "model": model,
        "pipeline": type(pipe).__name__,
        "device": str(device),
        "precision": str(pipe.dtype).removeprefix("torch."),
        "prompt": request.prompt,
        "negative": request.negative,
        "image": None if image is None else image.name,
        "steps": request.steps,
        "seed": request.seed,
        "guidance": request.guidance,
        "batch": request.batch,
    }


def write_results(out: Path, about: dict[str, Any], generation: Generation) -> dict[str, Any]:
    """Write pictures and report.json to `out`; return the report."""
    run = generation.run
    files = write_pictures(out, "image", generation.pictures)
    report = about | {"seconds": generation.seconds, "notes": generation.notes, "run": run}
    if run and run["records"]:
        files.append(write_timeline(out, run))
    if generation.rows is not None and generation.uncached is not None:
        reference, cached = generation.rows
        files += write_pictures(out, "uncached", generation.uncached)
        pair = generation.uncached[0], generation.pictures[0]
        files.append(write_comparison(out, pair, reference, cached))
        measured = {key: cached[key] for key in MEASURED if key in cached}
        report |= {"uncached_seconds": reference["seconds"], **measured}
    report["files"] = files
    write_json(out / "report.json", report)
    return report


def rows(report: dict[str, Any], generation: Generation) -> tuple[Figures, ...]:
    """The figures of the run, behind those of the uncached one where they are compared."""
    if generation.rows is not None:
        return generation.rows
    run = generation.run
    row: Figures = {"status": "done", "seconds": generation.seconds}
    if run is None:
        steps = report["steps"]
        return (row | {"label": "no cache", "computed": steps, "evaluations": steps},)
    counted = {key: run[key] for key in ("computed", "evaluations", "bytes_held")}
    return (row | counted | {"label": cache_label(run)},)


def result_text(report: dict[str, Any], generation: Generation) -> str:
    """A table of the figures, and what the cache and the pipeline say."""
    lines = [f"\n{table(rows(report, generation))}\n"]
    run = generation.run
    if run:
        lines += filter(None, [run["summary"], run["advice"], *run["warnings"]])
    return "\n".join([*lines, *generation.notes])
