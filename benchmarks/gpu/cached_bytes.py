"""What the cache holds at most, counted from the shapes of models, and what cards that leaves.

    python -m benchmarks.gpu.cached_bytes            # prints the tables
    python -m benchmarks.gpu.cached_bytes --write    # renews them in docs/gpu.md

Tests compare the counts with what reports of runs say they held (`bytes_held`), and the shapes with
those of models of the published sizes.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.models import MASKED, REAL, WAN_TEXT, ModelSize, Text, flux, qwen_image, wan
from benchmarks.testbeds import COMFYUI
from teacache.files import write_atomically
from teacache.tables import markdown

PAGE = Path(__file__).parents[2] / "docs" / "gpu.md"
BEGIN, END = "<!-- cached bytes: begin -->", "<!-- cached bytes: end -->"
CARDS = (8, 12, 24)
"""Memory of graphics cards, in GiB."""
GIB, GB, MB = 2**30, 1e9, 1e6
HALF, SINGLE = 2, 4
"""Bytes of a number in bfloat16 or float16, and in float32."""


@dataclass(frozen=True)
class Method:
    """A way to cache.

    Args:
        name: for the table.
        settings: of `TeaCacheConfig`.
        predictions: how many whole predictions it keeps, beside the sum of what was skipped.
        residuals: how many residuals of each branch it keeps.
        reads_input: whether it keeps what the profile compares, where that is not the noise level.
    """

    name: str
    settings: str
    predictions: int = 0
    residuals: int = 0
    reads_input: bool = False


FORECAST = Method("forecast", "mode=forecast", predictions=2)
FAITHFUL = Method("faithful", "mode=faithful", residuals=1, reads_input=True)
RESIDUALS = Method("forecast of residuals", "cached=residual", predictions=2, residuals=2)
METHODS = (FORECAST, FAITHFUL, RESIDUALS)


def latent_bytes(size: ModelSize, host: str, method: Method) -> int:
    """Of whole predictions: ComfyUI's sampler computes in float32, a pipeline in its model's type.
    The sum of what was skipped is in float32 on both; `method` keeps it where the forecast decides.
    """
    values = math.prod(size.latent)
    kept = method.predictions * (SINGLE if host == COMFYUI else HALF)
    follows = method is not FAITHFUL
    return values * (kept + (SINGLE if follows else 0))


def held_bytes(size: ModelSize, host: str, method: Method) -> int:
    """The most that a run holds, for one picture or film, weights in bfloat16 or float16."""
    read = method.reads_input and size.reads_input
    values = size.branches * size.tokens * size.width * (method.residuals + read)
    return latent_bytes(size, host, method) + HALF * values


LARGER: tuple[ModelSize, ...] = (
    flux(
        "flux1-2k", "FLUX.1-dev 12B, 2048 x 2048", 19, 38, 24, Text(512, 4096, pooled=768), 2048,
        parameters=REAL["flux1"].parameters,
    ),
    qwen_image(
        "qwen_image-2k", "Qwen-Image 20B, 2048 x 2048", 60, 24, MASKED, 2048,
        parameters=REAL["qwen_image"].parameters,
    ),
    wan(
        "wan21-14b-480p", "Wan 2.1 14B, 832 x 480, 81 frames", 40, 40, 13824, WAN_TEXT,
        (832, 480, 81), parameters=REAL["wan21-14b"].parameters,
    ),
    wan(
        "wan21-14b-720p", "Wan 2.1 14B, 1280 x 720, 81 frames", 40, 40, 13824, WAN_TEXT,
        (1280, 720, 81), parameters=REAL["wan21-14b"].parameters,
    ),
)  # fmt: skip
"""Sizes that are asked for beside those that are measured."""
SIZES = (*REAL.values(), *LARGER)


def held_table() -> str:
    """What each method holds, in ComfyUI."""
    head = ("model", "weights, 16 bit", "8 bit", *(method.name for method in METHODS))
    rows = [
        [
            size.title,
            f"{HALF * size.parameters / GB:.1f} GB",
            f"{size.parameters / GB:.1f} GB",
            *(_held(size, method) for method in METHODS),
        ]
        for size in SIZES
    ]
    return markdown(head, rows)


def _held(size: ModelSize, method: Method) -> str:
    if method is not FORECAST and not size.has_blocks:
        return "-"
    held = held_bytes(size, COMFYUI, method)
    return f"{held / MB:.0f} MB" if held >= 10 * MB else f"{held / MB:.1f} MB"


def cards_table() -> str:
    """What stays of a card's memory beside weights and cache, in 16 bits, else in 8."""
    head = ("model", *(f"{card} GB" for card in CARDS))
    return markdown(head, [[size.title, *(_left(size, card) for card in CARDS)] for size in SIZES])


def _left(size: ModelSize, card: int) -> str:
    methods = [FORECAST, FAITHFUL] if size.has_blocks else [FORECAST]
    for bits, weight in ((16, 2), (8, 1)):
        left = card * GIB - weight * size.parameters
        if left > 0:
            beside = [(left - held_bytes(size, COMFYUI, each)) / GB for each in methods]
            shown = " / ".join(f"{each:.1f}" for each in beside)
            return f"{bits} bit, {shown} GB left"
    shares = [held_bytes(size, COMFYUI, each) / (card * GIB) for each in methods]
    return "weights in parts; cache " + " / ".join(f"{share:.1%}" for share in shares)


def tables() -> str:
    """Both, as they stand on the page."""
    return f"{held_table()}\n\n{cards_table()}"


def renewed(page: str) -> str:
    """The page with the tables as they are now."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"renew the tables in {PAGE.name}")
    args = parser.parse_args()
    if not args.write:
        print(tables())
        return
    text = renewed(PAGE.read_text(encoding="utf-8"))
    write_atomically(PAGE, lambda file: file.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
