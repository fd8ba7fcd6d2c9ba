"""Pictures that the commands write: samples, and the uncached one beside the cached one."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

    from ..comparison.results import Figures
    from ..workflows.graph import Graph


def write_pictures(out: Path, stem: str, pictures: Tensor, graph: Graph | None = None) -> list[str]:
    """Write pictures [B, H, W, C] as PNG, numbered where there are several.

    Args:
        graph: the workflow that gave them, written into them as ComfyUI does.

    Returns:
        The names of the files.
    """
    from PIL.PngImagePlugin import PngInfo

    from ..plots.pixels import to_pil

    entries = PngInfo()
    if graph is not None:
        entries.add_text("prompt", json.dumps(graph))

    if len(pictures) == 1:
        names = [f"{stem}.png"]
    else:
        names = [f"{stem}_{number:03}.png" for number in range(1, len(pictures) + 1)]
    for name, picture in zip(names, pictures, strict=True):
        write_atomically(out / name, partial(to_pil(picture).save, pnginfo=entries))
    return names


def write_comparison(
    out: Path, pictures: tuple[Tensor, Tensor], reference: Figures, cached: Figures
) -> str:
    """Write the uncached picture [H, W, C], the cached one and their difference; return the name.

    Args:
        reference, cached: of `comparison.results.figures`, the second one of a single run.
    """
    from ..plots.comparison import comparison
    from ..plots.pixels import to_pil

    picture = comparison(
        to_pil(pictures[0]),
        to_pil(pictures[1]),
        labels=(
            f"{reference['label']}\n{reference['seconds']:.2f} s",
            f"{cached['label']}\n{cached['seconds']:.2f} s, "
            f"{cached['skipped']} of {cached['evaluations']} skipped",
        ),
        psnr=cached["psnr"],
        ssim=cached["ssim"],
    )
    write_atomically(out / "comparison.png", picture.save)
    return "comparison.png"


def write_timeline(out: Path, run: dict[str, Any]) -> str:
    """Write the picture of a run report as JSON; return the name."""
    from ..plots.timeline import timeline

    write_atomically(out / "timeline.png", timeline(run).save)
    return "timeline.png"


def cache_label(run: dict[str, Any]) -> str:
    """`TeaCache 0.3`, for a run report as JSON."""
    return f"TeaCache {run['threshold']:g}" if run["threshold"] else "TeaCache off"
