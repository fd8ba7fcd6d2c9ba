"""What `teacache generate` leaves behind: pictures, a report, and a table on the terminal."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_atomically, write_json
from ..tables import aligned

if TYPE_CHECKING:
    import torch

    from ..hosts.diffusers.generation import Request, Result

REPORT_VERSION = 1


def describe_run(
    model: str, pipe: Any, request: Request, image: Path | None, device: Any, started: float
) -> dict[str, Any]:
    """What was asked for, as the report names it."""
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


def write_results(
    out: Path, about: dict[str, Any], result: Result, reference: Result | None
) -> dict[str, Any]:
    """Writes pictures and report.json to `out`, and returns the report.

    reference: the run without the cache, where one was made to compare.
    """
    from ..comparison.metrics import similarity
    from ..plots.comparison import comparison
    from ..plots.pixels import to_pil
    from ..plots.timeline import timeline

    files = {**named("image", result.pictures)}
    report = about | {
        "seconds": result.seconds,
        "notes": result.notes,
        "run": None if result.report is None else result.report.to_json(),
    }
    pictures = {name: to_pil(pixels) for name, pixels in files.items()}
    if report["run"] and report["run"]["records"]:
        pictures["timeline.png"] = timeline(report["run"])
    if reference is not None:
        without = named("uncached", reference.pictures)
        pictures |= {name: to_pil(pixels) for name, pixels in without.items()}
        report |= {
            "uncached_seconds": reference.seconds,
            "speedup": reference.seconds / result.seconds,
            **similarity(reference.pictures, result.pictures),
        }
        pictures["comparison.png"] = comparison(
            to_pil(reference.pictures[0]),
            to_pil(result.pictures[0]),
            labels=(
                f"uncached\n{reference.seconds:.2f} s",
                f"{cache_name(report)}\n{result.seconds:.2f} s, {report['run']['skipped']} of "
                f"{report['run']['evaluations']} skipped",
            ),
            psnr=report["psnr"],
            ssim=report["ssim"],
        )
    report["files"] = list(pictures)
    for name, picture in pictures.items():
        write_atomically(out / name, picture.save)
    write_json(out / "report.json", report)
    return report


def named(stem: str, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    """Each picture under its file's name, numbered where there are several."""
    if len(pictures) == 1:
        return {f"{stem}.png": pictures[0]}
    return {f"{stem}_{n:03}.png": picture for n, picture in enumerate(pictures, start=1)}


def cache_name(report: dict[str, Any]) -> str:
    return f"TeaCache {report['run']['threshold']:g}"


def table(report: dict[str, Any]) -> str:
    """The figures of `report`, a row for each run."""
    run = report["run"]
    header = ["", "generation", "computed", "skipped"]
    if run is None:
        steps = str(report["steps"])
        rows = [header, ["no cache", f"{report['seconds']:.2f} s", steps, "0"]]
        return aligned(rows)
    count = run["evaluations"]
    name = cache_name(report) if run["threshold"] else "TeaCache off"
    cached = [name, f"{report['seconds']:.2f} s"]
    cached += [f"{run['computed']} of {count}", str(run["skipped"])] if count else ["all", "0"]
    if "speedup" not in report:
        return aligned([header, cached])
    header += ["gain", "PSNR", "SSIM"]
    uncached = ["uncached", f"{report['uncached_seconds']:.2f} s", f"{count} of {count}", "0"]
    uncached += [""] * 3
    cached.append(f"{report['speedup']:.2f}x")
    cached.append("identical" if report["identical"] else f"{report['psnr']:.1f} dB")
    cached.append(f"{report['ssim']:.3f}")
    if report["lpips"] is not None:
        header.append("LPIPS")
        uncached.append("")
        cached.append(f"{report['lpips']:.3f}")
    return aligned([header, uncached, cached])


def print_results(report: dict[str, Any], out: Path, result: Result) -> None:
    print(f"\n{table(report)}\n")
    if report["run"]:
        print(report["run"]["summary"])
        for sentence in filter(None, [report["run"]["advice"], *report["run"]["warnings"]]):
            print(sentence)
    for sentence in result.notes:
        print(sentence)
    print(f"Pictures and report: {out}")
    for name in (*report["files"], "report.json"):
        print(f"  {name}")
