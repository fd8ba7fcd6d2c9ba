"""The table and the plots of a comparison, from its journal.

python -m benchmarks.pareto_report output/benchmarks/pareto_demo-20-g7.jsonl [--results DIR]
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
from collections.abc import Callable
from pathlib import Path

from benchmarks.fronts import (
    REFERENCES,
    Point,
    Quality,
    curves,
    points,
    quality_at_speedup,
    wall_to_cpu_ratio,
)
from benchmarks.grounds import SPEEDUPS
from benchmarks.journal import Journal
from benchmarks.peers import ADJUSTMENTS
from benchmarks.quality import MAX_PSNR
from benchmarks.testbeds import COMFYUI, DIFFUSERS, UNCACHED
from benchmarks.variants import OURS
from teacache.errors import UserError
from teacache.files import write_atomically

RESULTS = Path(__file__).resolve().parent / "results"
SPEEDS, SPEEDS_FEW_STEPS = (1.5, 2.0, 3.0), SPEEDUPS
"""Speed-ups at which methods are compared: usually, and below `FEW_STEPS` steps."""
FEW_STEPS = 30
HOST_NAMES = {COMFYUI: "ComfyUI", DIFFUSERS: "diffusers"}
MEGABYTE = 1 << 20
FORMATS: dict[str, Callable[[float], str]] = {
    "mean": lambda value: f"{value:.1f}",
    "worst": lambda value: f"{value:.1f}",
    "ssim": lambda value: f"{1e4 * (1 - value):.2f}",
    "lpips": lambda value: f"{-1e4 * value:.2f}",
}
"""How the tables at equal time print the measures of `fronts`."""
PEER_GROUPS = ("in ComfyUI", "in diffusers", "cache-dit")
MAX_WALL_TO_CPU = 1.03
"""Above this ratio other programs used the processor, and processor time is reported."""


def report(path: Path, folder: Path) -> None:
    """Write `folder`/NAME.md, NAME.png and, with LPIPS, NAME_perceived.png; print the table.

    Args:
        path: NAME.jsonl, the journal of the comparison.
        folder: of the results.

    Raises:
        UserError: the journal has no complete pair.
    """
    from benchmarks.pareto_plot import plot

    journal = Journal.read(path)
    if not journal.pairs:
        raise UserError(f"{path} holds no complete pair yet")
    busy = wall_to_cpu_ratio(journal)
    by_cpu = journal.header["threads"] == 1 and busy > MAX_WALL_TO_CPU
    results = points(journal, "cpu" if by_cpu else "seconds")
    timing = "wall-clock time of the sampling call"
    if by_cpu:
        timing = (
            "processor time of the sampling call, in one thread (other programs were running: "
            f"wall-clock time was {busy:.2f} times as long)"
        )
    pictures: dict[str, tuple[str, ...]] = {f"{path.stem}.png": ("mean",)}
    if has_lpips(results):
        pictures[f"{path.stem}_perceived.png"] = ("ssim", "lpips")
    text = markdown(journal, results, timing, list(pictures))
    write_atomically(folder / f"{path.stem}.md", lambda file: file.write_text(text, "utf-8"))
    title = (
        f"{journal.header['about']} ({journal.header['ground']}): "
        f"{len(journal.pairs)} pairs of caption and seed"
    )
    lpips_pairs = f", LPIPS on {pairs_with_lpips(journal)} of them"
    for name, measures in pictures.items():
        plot(results, measures, title + lpips_pairs * ("lpips" in measures), folder / name)
    print(text)
    print(*(folder / name for name in (f"{path.stem}.md", *pictures)), sep="\n")


def markdown(journal: Journal, points: list[Point], timing: str, pictures: list[str]) -> str:
    head = journal.header
    pairs = list(journal.pairs)
    captions, seeds = {caption for caption, _ in pairs}, {seed for _, seed in pairs}
    versions = ", ".join(f"{name} {number}" for name, number in head["versions"].items())
    settings = head["settings"]
    speeds = SPEEDS_FEW_STEPS if settings["steps"] < FEW_STEPS else SPEEDS
    lines = [
        f"# Quality against time: {head['ground']}",
        "",
        *(f"![Quality against speed-up]({picture})" for picture in pictures),
        "",
        f"`{head['command']}` · {head['about']}, weights {head['weights']} · {len(pairs)} pairs "
        f"({len(captions)} captions, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}), none of "
        f"them used for tuning · {settings['steps']} steps of {settings['sampler']}, "
        f"{settings['schedule']}, guidance {settings['guidance']:g}, {settings['dtype']} · "
        f"{head['machine']} · {versions}",
        "",
        f"Seconds: {timing}; median over pairs. Speed-up: seconds of the same host's uncached run "
        "over the variant's, for the same pair; median over pairs. Computed: evaluations in which "
        "the middle block ran. Memory: bytes of tensors half-way through a run, beyond those of "
        "the uncached run. "
        "PSNR in dB: mean, and mean of the worst 5 % of pairs; identical pictures count as "
        f"{MAX_PSNR:g} dB and are counted behind `=`. Uncached: against the same host's uncached "
        "picture at the same settings. Converged: against "
        f"{settings['converged']} second-order steps.{agreement_of_hosts(journal)}",
        "",
        *table(points),
        "",
        "## At equal time",
        "",
        "PSNR mean / worst 5 % in dB at a speed-up, interpolated along each method's front over "
        "the logarithm of the speed-up. `–`: the front does not reach it. `≥`: its slowest point "
        "is faster, and its quality is given. Points at which more than 5 % of the pictures are "
        "identical with the reference are left out. Best of each column in bold.",
        "",
        *at_equal_time(points, speeds, ("mean", "worst")),
        "",
        *(perceived_at_equal_time(points, speeds) if has_lpips(points) else []),
        "## Notes",
        "",
        *notes(journal),
        "",
    ]
    return "\n".join(lines)


def agreement_of_hosts(journal: Journal) -> str:
    """A sentence on how near both hosts' uncached pictures are; empty where one did not run."""
    found = [pair["agreement"] for pair in journal.pairs.values() if "agreement" in pair]
    if not found:
        return ""
    return (
        f" Both hosts uncached agree to {min(found):.1f} dB at least, "
        f"{statistics.median(found):.1f} in the median."
    )


def has_lpips(points: list[Point]) -> bool:
    return any(point.against["uncached"].lpips is not None for point in points)


def perceived_at_equal_time(points: list[Point], speeds: tuple[float, ...]) -> list[str]:
    about = (
        "1 - SSIM / LPIPS in the same way, both in units of 0.0001: less is better, and `≤` "
        "stands for `≥`."
    )
    return [about, "", *at_equal_time(points, speeds, ("ssim", "lpips")), ""]


def cells(value: Quality, with_lpips: bool) -> list[str]:
    same = f" ={value.identical}" if value.identical else ""
    texts = [f"{value.mean:.1f}{same}", f"{value.worst:.1f}", f"{value.ssim:.4f}"]
    return [*texts, f"{value.lpips:.4f}" if value.lpips is not None else "n/a"][: 3 + with_lpips]


def table(points: list[Point]) -> list[str]:
    with_lpips = has_lpips(points)
    quality = ["PSNR", "worst 5 %", "SSIM", "LPIPS"][: 3 + with_lpips]
    columns = ["", "host", "pairs", "computed", "seconds", "speed-up", "memory"]
    columns += [f"{reference}: {name}" for reference in REFERENCES for name in quality]
    lines = [" | ".join(["", *columns, ""]).strip(), "|" + "---|" * len(columns)]
    group = ""
    for point in points:
        if point.group != group:
            group = point.group
            lines.append(f"| **{group}** |" + " |" * (len(columns) - 1))
        row = [
            point.name, HOST_NAMES[point.host], str(point.pairs),
            f"{point.computed:.1f} of {point.steps}", f"{point.seconds:.2f}",
            f"{point.speedup:.2f}x", f"{point.memory / MEGABYTE:.2f} MB",
        ]  # fmt: skip
        for reference in REFERENCES:
            row += cells(point.against[reference], with_lpips)
        lines.append(f"| {' | '.join(row)} |")
    return lines


def at_equal_time(
    points: list[Point], speeds: tuple[float, ...], measures: tuple[str, str]
) -> list[str]:
    """A table of two `measures`: rows by method, columns by speed-up and reference."""
    columns = list(itertools.product(speeds, REFERENCES, measures))
    values: dict[str, list[tuple[float, bool] | None]] = {}
    for column, (speed, reference, measure) in enumerate(columns):
        for method, curve in curves(points, reference, measure).items():
            row = values.setdefault(method, [None] * len(columns))
            row[column] = quality_at_speedup(curve, speed)
    best = [
        max((cell[0] for cell in column if cell is not None), default=-math.inf)
        for column in zip(*values.values(), strict=True)
    ]

    def text(method: str, column: int) -> str:
        cell = values[method][column]
        figure = shown(cell, columns[column][2])
        return f"**{figure}**" if cell is not None and cell[0] >= best[column] else figure

    heads = [
        f"{speed:g}x, {reference}" for speed, reference in itertools.product(speeds, REFERENCES)
    ]
    lines = [f"| | {' | '.join(heads)} |", "|" + "---|" * (len(heads) + 1)]
    for method in values:
        cells = [f"{text(method, 2 * i)} / {text(method, 2 * i + 1)}" for i in range(len(heads))]
        name = f"**{method}**" if method.startswith(OURS) else method
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def shown(figure: tuple[float, bool] | None, measure: str) -> str:
    """What `quality_at_speedup` gives of a measure, as the tables print it."""
    if figure is None:
        return "–"
    value, is_faster = figure
    return ("≥ " if measure in ("mean", "worst") else "≤ ") * is_faster + FORMATS[measure](value)


def notes(journal: Journal) -> list[str]:
    lines = [
        f"- Not run: {name}: {why}." for name, why in group_by_reason(journal.unusable).items()
    ]
    measured = pairs_with_lpips(journal)
    if measured:
        lines.append(
            f"- LPIPS 0.1 with AlexNet (`benchmarks/backbone.py`), lower is better: mean over "
            f"{measured} of the {len(journal.pairs)} pairs."
        )
    else:
        lines.append(f"- LPIPS: n/a ({journal.no_lpips}).")
    if any(variant["group"] in PEER_GROUPS for variant in journal.header["variants"]):
        lines += [f"- {text}" for text in ADJUSTMENTS]
    again = [journal.complete(f"{name} again") for name in UNCACHED.values()]
    floor = [record["uncached"]["psnr"] for samples in again for record in samples.values()]
    if floor:
        lowest = min(floor)
        same = "identical" if lowest >= MAX_PSNR else f"at least {lowest:.1f} dB"
        lines.append(f"- Noise floor: an uncached run repeated is {same}.")
    return lines


def pairs_with_lpips(journal: Journal) -> int:
    """Number of pairs with LPIPS."""
    return sum(record["lpips"] for record in journal.pairs.values())


def group_by_reason(unusable: dict[str, str]) -> dict[str, str]:
    """The reasons why variants do not run, by the names of the variants, joined."""
    by_reason: dict[str, list[str]] = {}
    for name, why in unusable.items():
        by_reason.setdefault(why.rstrip("."), []).append(name)
    return {", ".join(names): why for why, names in by_reason.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    report(args.file, args.results)


if __name__ == "__main__":
    main()
