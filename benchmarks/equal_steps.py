"""Our modes, faithful TeaCache and fewer steps at equal numbers of computed steps, on every ground.

    python -m benchmarks.equal_steps --pairs 8 --write

A residual's skip runs the embedders and the final layer. In these small models that is a tenth of a
step and more, in large ones about a hundredth, so that times here would tell little: what is
equal is the number of computed steps. Each mode is run at several thresholds; between their means
the figures at `SPEEDUPS` are interpolated. Presets and fewer steps are asked for these speed-ups.
No setting was chosen on these captions and seeds. Of a UNet, which is no list of blocks, the modes
that need one are left out; ComfyUI's EasyCache and LazyCache, which need none, are in their place,
and the forecast in diffusers, against the uncached picture of that host. With `--models`, the page
keeps its rows of the other models.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from tqdm import tqdm

from benchmarks import peers
from benchmarks.command import comfyui, euler_grounds, options, parsed, with_rows_of
from benchmarks.drawing import draw
from benchmarks.grounds import SPEEDUPS, Ground
from benchmarks.roughness import MODELS, publish
from benchmarks.testbeds import COMFYUI, DIFFUSERS, STEPS, Pair, Testbed, load
from benchmarks.variants import UNCACHED_ENABLE
from teacache.tables import markdown

RESULTS = Path(__file__).parent / "results" / "equal_steps.md"
THRESHOLDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
FAITHFUL_THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 1.2)
EASY_THRESHOLDS = (0.002, 0.004, 0.007, 0.012, 0.02, 0.035, 0.05, 0.1, 0.2)
"""In steps of a run of 50; they grow with the length of a step."""
IN_DIFFUSERS = "forecast, diffusers"
FEWER_STEPS, PRESET, ONE_RUN = "fewer steps", "preset", "preset, calibrated in one run"
DIRECT = (FEWER_STEPS, PRESET, ONE_RUN)
"""Ways that are asked for a speed-up, and need no interpolation."""

Point = tuple[float, float, float]
"""Computed steps, and the mean and the least PSNR in dB, of the pairs."""


def ways(ground: Ground) -> dict[str, list[peers.Enable]]:
    """By name: a way to cache, at several thresholds; those that the model at hand allows."""
    forecast = {
        "forecast": [
            peers.teacache_comfyui(mode="forecast", rel_l1_thresh=value) for value in THRESHOLDS
        ]
    }
    scale = STEPS / ground.steps
    if not ground.has_blocks:
        rivals = {"EasyCache": peers.easycache, "LazyCache": peers.lazycache}
        return {
            **forecast,
            IN_DIFFUSERS: [
                peers.teacache_diffusers(value, mode="forecast") for value in THRESHOLDS
            ],
            **{
                name: [enable(value * scale) for value in EASY_THRESHOLDS]
                for name, enable in rivals.items()
            },
        }
    return {
        **forecast,
        "forecast, residuals": [
            peers.teacache_comfyui(mode="forecast", cached="residual", rel_l1_thresh=value)
            for value in THRESHOLDS
        ],
        "faithful TeaCache": [
            peers.teacache_comfyui(mode="faithful", rel_l1_thresh=value * scale**0.5)
            for value in FAITHFUL_THRESHOLDS
        ],
    }


def host_of(way: str) -> str:
    """Where a way is sampled."""
    return DIFFUSERS if way == IN_DIFFUSERS else COMFYUI


def measure(testbed: Testbed, ground: Ground, pairs: Sequence[Pair]) -> dict[str, list[Point]]:
    """The points of each way on a ground, against the uncached pictures of the same host."""
    testbed = testbed.on(ground)
    fewer = [round(ground.steps / speedup) for speedup in SPEEDUPS]
    runs = {
        name: [(enable, ground.steps) for enable in enables]
        for name, enables in ways(ground).items()
    }
    presets = {PRESET: peers.Presets(), ONE_RUN: peers.Presets(quick=True)}
    for name, ways_to in presets.items():
        runs[name] = [(ways_to.for_speedup(speedup), ground.steps) for speedup in SPEEDUPS]
    runs[FEWER_STEPS] = [(peers.uncached_comfyui, steps) for steps in fewer]
    found: dict[str, list[list[tuple[float, float]]]] = {
        name: [[] for _ in points] for name, points in runs.items()
    }
    for pair in tqdm(pairs, desc=ground.name, unit="pair"):
        references = {
            host: draw(testbed, UNCACHED_ENABLE[host], pair, host=host).frames
            for host in dict.fromkeys(map(host_of, runs))
        }
        for name, points in runs.items():
            host = host_of(name)
            for place, (enable, steps) in zip(found[name], points, strict=True):
                drawing = draw(testbed, enable, pair, steps, host)
                place.append((drawing.computed, drawing.psnr_to(references[host])))
    return {
        name: [
            (
                statistics.fmean(computed for computed, _ in place),
                statistics.fmean(quality for _, quality in place),
                min(quality for _, quality in place),
            )
            for place in places
        ]
        for name, places in found.items()
    }


def at(points: Sequence[Point], computed: float) -> tuple[float, float] | None:
    """Mean and least PSNR at a number of computed steps, between the two nearest points.

    Returns:
        None where all points have more of them, or all have fewer.
    """
    ordered = sorted(points)
    for low, high in pairwise(ordered):
        if low[0] <= computed <= high[0]:
            share = (computed - low[0]) / (high[0] - low[0]) if high[0] > low[0] else 0.0
            mean, least = (a + share * (b - a) for a, b in zip(low[1:], high[1:], strict=True))
            return mean, least
    return None


def rows_of(ground: Ground, measured: Mapping[str, Sequence[Point]]) -> list[list[str]]:
    """The rows of a table: ground, way, and the figures at `SPEEDUPS`."""
    rows = []
    for name, points in measured.items():
        shown = [at(points, ground.steps / speedup) for speedup in SPEEDUPS]
        cells = ["–" if value is None else f"{value[0]:.1f} / {value[1]:.1f}" for value in shown]
        if name in DIRECT:
            cells = [
                f"{mean:.1f} / {least:.1f} ({computed:.3g})" for computed, mean, least in points
            ]
        rows.append([ground.heading, name, *cells])
    return rows


def command(pairs: int) -> str:
    """What the page says that it was made with."""
    return f"python -m benchmarks.equal_steps --pairs {pairs} --write"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown, with a heading for each speed-up."""
    return markdown(["ground", "", *(f"{speedup:g}x" for speedup in SPEEDUPS)], rows)


def main() -> None:
    args = parsed(options(__doc__, RESULTS, 8, MODELS))
    rows: list[list[str]] = []
    with comfyui(args):
        testbeds = {name: load(name) for name in args.models}
        for ground in euler_grounds(args.models):
            testbed = testbeds[ground.model]
            measured = measure(testbed, ground, testbed.test_pairs(args.pairs))
            made = rows_of(ground, measured)
            rows += made
            print("\n".join("  ".join(row) for row in made), flush=True)
    if args.write and set(args.models) < set(MODELS):
        rows = with_rows_of(RESULTS, command(args.pairs), rows)
    page = (
        "# At equal numbers of computed steps\n\n"
        f"`{command(args.pairs)}`: PSNR in dB against the "
        f"uncached picture, mean and worst\nof {args.pairs} pairs, Euler steps. The speed-up is "
        "that of a model in which a skip costs nothing: steps over computed\nsteps. –: not reached "
        f"at any threshold. In parentheses: computed steps, mean.\n\n{table(rows)}\n"
    )
    publish(page, RESULTS if args.write else None)


if __name__ == "__main__":
    main()
