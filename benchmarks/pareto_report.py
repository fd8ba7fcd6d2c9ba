"""The table and the pictures of a comparison, from its record.

python -m benchmarks.pareto_report output/benchmarks/pareto_demo.jsonl [--results DIR]
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
from collections.abc import Callable
from pathlib import Path

from benchmarks.fronts import REFERENCES, Point, Quality, at_speed, busyness, curves, points
from benchmarks.journal import Journal
from benchmarks.pareto_plot import plot
from benchmarks.peers import HELP
from benchmarks.quality import IDENTICAL
from benchmarks.testbeds import COMFYUI, DIFFUSERS, UNCACHED
from benchmarks.variants import OURS
from teacache.errors import UserError
from teacache.files import write_atomically

RESULTS = Path(__file__).resolve().parent / "results"
SPEEDS, SPEEDS_OF_FEW = (1.5, 2.0, 3.0), (1.25, 1.5, 2.0)
"""Where methods are compared; a run of few steps has less to skip."""
FEW = 30
HOST_NAMES = {COMFYUI: "ComfyUI", DIFFUSERS: "diffusers"}
MEGABYTE = 1 << 20
SHOWN: dict[str, Callable[[float], str]] = {
    "mean": lambda value: f"{value:.1f}",
    "worst": lambda value: f"{value:.1f}",
    "ssim": lambda value: f"{1e4 * (1 - value):.2f}",
    "lpips": lambda value: f"{-1e4 * value:.2f}",
}
"""Measures of `fronts` as the tables at equal time have them."""
PEERS = ("in ComfyUI", "in diffusers", "cache-dit")
BUSY = 1.03
"""Wall over processor time from which on others had a share of the processor."""


def report(path: Path, folder: Path) -> None:
    """Writes `folder`/NAME.md, NAME.png and, with LPIPS, NAME_perceived.png; prints the table."""
    journal = Journal.read(path)
    if not journal.pairs:
        raise UserError(f"{path} holds no complete pair yet")
    busy = busyness(journal)
    by_cpu = journal.header["threads"] == 1 and busy > BUSY
    found = points(journal, "cpu" if by_cpu else "seconds")
    timing = "time of the sampling call on the wall"
    if by_cpu:
        timing = (
            "processor time of the sampling call, in one thread (other programs were running, and "
            f"{busy:.2f} times as much passed on the wall)"
        )
    pictures: dict[str, tuple[str, ...]] = {f"{path.stem}.png": ("mean",)}
    if has_lpips(found):
        pictures[f"{path.stem}_perceived.png"] = ("ssim", "lpips")
    text = markdown(journal, found, timing, list(pictures))
    write_atomically(folder / f"{path.stem}.md", lambda file: file.write_text(text, "utf-8"))
    settings = journal.header["settings"]
    title = (
        f"{journal.header['about']}, {settings['steps']} steps, guidance {settings['guidance']:g}: "
        f"{len(journal.pairs)} pairs of caption and seed"
    )
    of_these = f", LPIPS on {pairs_with_lpips(journal)} of them"
    for name, measures in pictures.items():
        plot(found, measures, title + of_these * ("lpips" in measures), folder / name)
    print(text)
    print(*(folder / name for name in (f"{path.stem}.md", *pictures)), sep="\n")


def markdown(journal: Journal, found: list[Point], timing: str, pictures: list[str]) -> str:
    head = journal.header
    pairs = list(journal.pairs)
    captions, seeds = {caption for caption, _ in pairs}, {seed for _, seed in pairs}
    versions = ", ".join(f"{name} {number}" for name, number in head["versions"].items())
    settings = head["settings"]
    speeds = SPEEDS_OF_FEW if settings["steps"] < FEW else SPEEDS
    agreement = [record["agreement"] for record in journal.pairs.values()]
    lines = [
        f"# Quality against time: {head['model']}",
        "",
        *(f"![Quality against speed-up]({picture})" for picture in pictures),
        "",
        f"`{head['command']}` · {head['about']}, weights {head['weights']} · {len(pairs)} pairs "
        f"({len(captions)} captions, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}), none of "
        f"them used for tuning · {settings['steps']} Euler steps, {settings['schedule']}, guidance "
        f"{settings['guidance']:g}, {settings['dtype']} · {head['machine']} · {versions}",
        "",
        f"Seconds: {timing}; median over pairs. Speed-up: median over pairs of the uncached one's "
        "on the same host in the same pair over the variant's. Computed: evaluations in which the "
        "middle block ran. Memory: held half-way through a run beyond what the uncached run holds. "
        "PSNR in dB: mean, and mean of the worst 5 % of pairs; identical pictures count as "
        f"{IDENTICAL:g} dB and are counted behind `=`. Uncached: against the same host's uncached "
        "picture at the same settings. Converged: against "
        f"{settings['converged']} second-order steps. Both hosts uncached agree "
        f"to {min(agreement):.1f} dB at least, {statistics.median(agreement):.1f} in the median.",
        "",
        *table(found),
        "",
        "## At equal time",
        "",
        "PSNR mean / worst 5 % in dB at a speed-up, interpolated along each method's front over "
        "the logarithm of the speed-up. `–`: the front does not reach it. `≥`: its slowest point "
        "is faster than that, and counts. Best of each column in bold.",
        "",
        *at_equal_time(found, speeds, ("mean", "worst")),
        "",
        *(perceived_at_equal_time(found, speeds) if has_lpips(found) else []),
        "## Notes",
        "",
        *notes(journal),
        "",
    ]
    return "\n".join(lines)


def has_lpips(found: list[Point]) -> bool:
    return any(point.against["uncached"].lpips is not None for point in found)


def perceived_at_equal_time(found: list[Point], speeds: tuple[float, ...]) -> list[str]:
    about = (
        "1 - SSIM / LPIPS in the same way, both in units of 0.0001: less is better, and `≤` "
        "stands for `≥`."
    )
    return [about, "", *at_equal_time(found, speeds, ("ssim", "lpips")), ""]


def cells(value: Quality, with_lpips: bool) -> list[str]:
    same = f" ={value.identical}" if value.identical else ""
    found = [f"{value.mean:.1f}{same}", f"{value.worst:.1f}", f"{value.ssim:.4f}"]
    return [*found, f"{value.lpips:.4f}" if value.lpips is not None else "n/a"][: 3 + with_lpips]


def table(found: list[Point]) -> list[str]:
    with_lpips = has_lpips(found)
    quality = ["PSNR", "worst 5 %", "SSIM", "LPIPS"][: 3 + with_lpips]
    columns = ["", "host", "pairs", "computed", "seconds", "speed-up", "memory"]
    columns += [f"{reference}: {name}" for reference in REFERENCES for name in quality]
    lines = [" | ".join(["", *columns, ""]).strip(), "|" + "---|" * len(columns)]
    group = ""
    for point in found:
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
    found: list[Point], speeds: tuple[float, ...], measures: tuple[str, str]
) -> list[str]:
    """Rows by method of `measures`, at each speed-up and against each reference."""
    columns = list(itertools.product(speeds, REFERENCES, measures))
    values: dict[str, list[tuple[float, bool] | None]] = {}
    for place, (speed, reference, measure) in enumerate(columns):
        for method, curve in curves(found, reference, measure).items():
            row = values.setdefault(method, [None] * len(columns))
            row[place] = at_speed(curve, speed)
    best = [
        max((cell[0] for cell in column if cell is not None), default=-math.inf)
        for column in zip(*values.values(), strict=True)
    ]

    def shown(method: str, place: int) -> str:
        cell, measure = values[method][place], columns[place][2]
        if cell is None:
            return "–"
        beyond = ("≥ " if measure in ("mean", "worst") else "≤ ") * cell[1]
        text = beyond + SHOWN[measure](cell[0])
        return f"**{text}**" if cell[0] >= best[place] else text

    heads = [
        f"{speed:g}x, {reference}" for speed, reference in itertools.product(speeds, REFERENCES)
    ]
    lines = [f"| | {' | '.join(heads)} |", "|" + "---|" * (len(heads) + 1)]
    for method in values:
        cells = [f"{shown(method, 2 * i)} / {shown(method, 2 * i + 1)}" for i in range(len(heads))]
        name = f"**{method}**" if method.startswith(OURS) else method
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def notes(journal: Journal) -> list[str]:
    lines = [f"- Not run: {name}: {why}." for name, why in grouped(journal.unusable).items()]
    measured = pairs_with_lpips(journal)
    if measured:
        lines.append(
            f"- LPIPS 0.1 with AlexNet (`benchmarks/backbone.py`), lower is better: mean over "
            f"{measured} of the {len(journal.pairs)} pairs."
        )
    else:
        lines.append(f"- LPIPS: n/a ({journal.no_lpips}).")
    if any(variant["group"] in PEERS for variant in journal.header["variants"]):
        lines += [f"- {text}" for text in HELP]
    floor = [journal.complete(f"{name} again") for name in UNCACHED.values()]
    if all(floor):
        lowest = min(r["uncached"]["psnr"] for samples in floor for r in samples.values())
        same = "identical" if lowest >= IDENTICAL else f"at least {lowest:.1f} dB"
        lines.append(f"- Noise floor: an uncached run repeated is {same}.")
    return lines


def pairs_with_lpips(journal: Journal) -> int:
    """How many pairs were measured by LPIPS."""
    return sum(record["lpips"] for record in journal.pairs.values())


def grouped(unusable: dict[str, str]) -> dict[str, str]:
    """Variants that do not run for one reason, in one line."""
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
