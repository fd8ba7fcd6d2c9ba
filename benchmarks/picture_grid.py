"""Pictures of each rough ground side by side: uncached, ours, faithful TeaCache and fewer steps.

    python -m benchmarks.picture_grid --write

Three captions that nothing was chosen on are drawn uncached, by our presets for `SPEEDUPS`, by
faithful TeaCache and with fewer steps. A preset and fewer steps compute the same number of steps;
the threshold of faithful TeaCache is the one that comes nearest to it on tuning pairs. Of a film,
the middle frame is shown.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from benchmarks import peers
from benchmarks.drawing import Drawing, draw
from benchmarks.grounds import BY_SLUG, GROUNDS, ROUGH, Ground
from benchmarks.quality import MAX_PSNR
from benchmarks.roughness import publish
from benchmarks.testbeds import Pair, Testbed, load
from teacache.files import write_atomically
from teacache.hosts.comfyui.headless.boot import boot, find_comfyui
from teacache.plots.canvas import GRID, MUTED, Canvas, shorten
from teacache.plots.pixels import to_pil
from teacache.profiles.plans import steps_for

RESULTS = Path(__file__).parent / "results"
COMMAND = "python -m benchmarks.picture_grid"
ROUGH_GROUNDS = [ground for ground in GROUNDS if ground.kind == ROUGH]
SPEEDUPS = (1.5, 2.0)
CAPTIONS, TUNING_PAIRS = 3, 2
LEAST, MOST, HALVINGS, CLOSE = 0.03, 3.0, 9, 0.25
"""Thresholds of faithful TeaCache that are searched, how often the range is halved, and how many
steps from the wanted number are near enough."""
SIDE = 128
"""Pictures with shorter sides are enlarged to it, in whole multiples."""
GAP, MARGIN, HEAD, CAPTION, FIGURES = 16, 16, 92, 26, 30
"""Of the page of pictures, in pixels; the last two stand above and below each row."""


@dataclass(frozen=True)
class Column:
    """A way to sample, with its name in two lines and the pictures of all pairs."""

    name: tuple[str, str]
    drawings: list[Drawing]


def nearest_threshold(computed_at: Callable[[float], float], wanted: float) -> float:
    """The tried threshold whose number of computed steps is nearest to `wanted`.

    Args:
        computed_at: computed steps at a threshold; they fall as it rises.
    """
    low, high = math.log(LEAST), math.log(MOST)
    tried: dict[float, float] = {}
    for _ in range(HALVINGS):
        threshold = math.exp((low + high) / 2)
        tried[threshold] = computed_at(threshold)
        if abs(tried[threshold] - wanted) <= CLOSE:
            break
        if tried[threshold] > wanted:
            low = math.log(threshold)
        else:
            high = math.log(threshold)
    return min(tried, key=lambda threshold: abs(tried[threshold] - wanted))


def faithful(testbed: Testbed, steps: int) -> peers.Enable:
    """Faithful TeaCache at the threshold that computes nearly `steps` steps of tuning pairs."""
    pairs = testbed.tuning_pairs(TUNING_PAIRS)

    def enable(threshold: float) -> peers.Enable:
        return peers.teacache_comfyui(mode="faithful", rel_l1_thresh=threshold)

    def computed_at(threshold: float) -> float:
        return statistics.fmean(draw(testbed, enable(threshold), pair).computed for pair in pairs)

    return enable(nearest_threshold(computed_at, steps))


def columns_of(testbed: Testbed, pairs: Sequence[Pair]) -> list[Column]:
    """The columns, uncached first; the testbed is on the ground that is drawn."""
    presets, total = peers.Presets(), testbed.ground.steps
    counts = {speedup: steps_for(total, speedup) for speedup in SPEEDUPS}
    ways: list[tuple[tuple[str, str], peers.Enable, int | None]] = [
        (("uncached", f"{total} steps"), peers.uncached_comfyui, None),
        *(
            (("ours", f"preset {speedup:g}x"), presets.for_speedup(speedup), None)
            for speedup in SPEEDUPS
        ),
        *(
            (("faithful", f"TeaCache, near {speedup:g}x"), faithful(testbed, count), None)
            for speedup, count in counts.items()
            if testbed.ground.has_blocks
        ),
        *(
            (("fewer steps", f"{speedup:g}x"), peers.uncached_comfyui, count)
            for speedup, count in counts.items()
        ),
    ]
    return [
        Column(name, [draw(testbed, enable, pair, steps) for pair in pairs])
        for name, enable, steps in tqdm(ways, desc=testbed.ground.name, unit="way")
    ]


def figures(drawing: Drawing, reference: Drawing) -> tuple[str, str]:
    """Computed steps, and PSNR to the reference."""
    quality = drawing.psnr_to(reference.frames)
    steps = f"{drawing.computed:.1f}".removesuffix(".0")
    shown = "identical" if quality >= MAX_PSNR else f"{quality:.1f} dB"
    return f"{steps} steps", "reference" if drawing is reference else shown


def shown_frame(drawing: Drawing) -> Image.Image:
    """The picture, or the middle frame of a film, enlarged to `SIDE`."""
    image = to_pil(drawing.frames[len(drawing.frames) // 2])
    factor = max(1, math.ceil(SIDE / max(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def grid(ground: Ground, pairs: Sequence[Pair], columns: Sequence[Column]) -> Image.Image:
    """All pictures of a ground, one row for each pair; the first column is the reference."""
    images = [[shown_frame(drawing) for drawing in column.drawings] for column in columns]
    width, height = images[0][0].size
    step, row_height = width + GAP, CAPTION + height + FIGURES
    canvas = Canvas(
        2 * MARGIN + len(columns) * step - GAP, HEAD + len(pairs) * row_height + MARGIN // 2
    )
    room = canvas.width - 2 * MARGIN
    film = (
        "; middle frame, PSNR of the whole film" if len(columns[0].drawings[0].frames) > 1 else ""
    )
    canvas.text(MARGIN, 24, shorten(ground.name, 17, room), 17)
    command = f"{COMMAND} --ground {ground.slug} --write: computed steps and PSNR to uncached{film}"
    canvas.text(MARGIN, 43, shorten(command, 12, room), 12, MUTED)
    tops = [HEAD + number * row_height + CAPTION for number in range(len(pairs))]
    for number, column in enumerate(columns):
        x = MARGIN + number * step
        canvas.text(x, 68, shorten(column.name[0], 14, width), 14)
        canvas.text(x, 84, shorten(column.name[1], 12, width), 12, MUTED)
        for top, drawing, first in zip(tops, column.drawings, columns[0].drawings, strict=True):
            canvas.rectangle(x - 1, top - 1, x + width + 1, top + height + 1, GRID)
            computed, quality = figures(drawing, first)
            canvas.text(x, top + height + 15, computed, 12)
            canvas.text(x + width, top + height + 15, quality, 12, anchor="rs")
    for top, pair in zip(tops, pairs, strict=True):
        canvas.text(MARGIN, top - 7, shorten(f"{pair.prompt}, seed {pair.seed}", 13, room), 13)
    page = canvas.render()
    for number, drawn in enumerate(images):
        for top, image in zip(tops, drawn, strict=True):
            page.paste(image, (MARGIN + number * step, top))
    return page


def file_of(folder: Path, ground: Ground) -> Path:
    """Of the pictures of a ground."""
    return folder / f"pictures_{ground.slug}.png"


def page_of(folder: Path) -> str:
    """The page that shows the pictures in a folder."""
    shown = [ground for ground in ROUGH_GROUNDS if file_of(folder, ground).is_file()]
    parts = [
        "# Pictures of the rough grounds",
        f"`{COMMAND} --write`: {CAPTIONS} captions of each ground that nothing was chosen on, "
        "uncached, by the presets\nfor 1.5x and 2x without a calibration, by faithful TeaCache at "
        "the threshold that computes nearly as many steps of\ntuning pairs, and with fewer steps. "
        "Below each picture stand its computed steps and its PSNR to the uncached one;\nof a film "
        "the middle frame is shown.",
        *(
            f"## {ground.name}\n\n![{ground.name}]({file_of(folder, ground).name})"
            for ground in shown
        ),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    slugs = [ground.slug for ground in ROUGH_GROUNDS]
    parser.add_argument("--ground", nargs="+", choices=slugs, default=slugs, metavar="GROUND")
    parser.add_argument("--comfyui", type=Path)
    parser.add_argument("--write", action="store_true", help="write the pictures and their page")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        boot(find_comfyui(args.comfyui), Path(folder))
        testbeds: dict[str, Testbed] = {}
        for ground in (BY_SLUG[slug] for slug in dict.fromkeys(args.ground)):
            if ground.model not in testbeds:
                testbeds[ground.model] = load(ground.model)
            testbed = testbeds[ground.model].on(ground)
            pairs = testbed.test_pairs(CAPTIONS)
            columns = columns_of(testbed, pairs)
            for column in columns:
                shown = zip(column.drawings, columns[0].drawings, strict=True)
                print("  ".join([*column.name, *(" ".join(figures(*each)) for each in shown)]))
            if args.write:
                picture = grid(ground, pairs, columns)
                save = partial(picture.save, format="PNG", optimize=True)
                write_atomically(file_of(RESULTS, ground), save)
    if args.write:
        publish(page_of(RESULTS), RESULTS / "pictures.md")


if __name__ == "__main__":
    main()
