"""N steps with the cache, or M steps without: which picture is nearer to the converged one?

    python -m benchmarks.more_steps --write

Both ways compute the model M times, from the same noise, with Euler steps; a preset for a speed-up
of N / M skips the other steps of the cached run. The converged picture is that of `CONVERGED_STEPS`
steps of a second-order solver; converged latents are kept in output/benchmarks/, as those of
`benchmarks.pareto` are. No setting was chosen on these captions and seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks import peers
from benchmarks.command import options, parsed
from benchmarks.drawing import draw
from benchmarks.grounds import Ground
from benchmarks.pareto import OUT
from benchmarks.quality import CONVERGED_STEPS, ConvergedReferences, decoded
from benchmarks.roughness import publish
from benchmarks.testbeds import Pair, Testbed, load
from teacache.hosts.comfyui.headless.boot import boot, find_comfyui
from teacache.tables import markdown

RESULTS = Path(__file__).parent / "results" / "more_steps.md"
MODELS = (("demo", 4.0), ("demo", 7.0), ("digits", 5.0), ("photos", 4.0))
"""Names of testbeds, and guidance."""
COMPUTED = (8, 10, 14, 20)
"""Steps that are computed: M."""
FACTORS = (1.5, 2.0)
"""Steps of the cached run for each computed one: N / M."""


@dataclass(frozen=True)
class Entry:
    """One number of computed steps on one model.

    Args:
        steps: M.
        without: PSNR in dB to the converged picture of M uncached steps, for each pair.
        cached: the same of each of `FACTORS` times as many steps with the cache.
        computed: mean computed steps of each of these; M, unless more had to be computed.
    """

    steps: int
    without: list[float]
    cached: list[list[float]]
    computed: list[float]

    def gain(self, number: int) -> float:
        """Mean PSNR of the cached pictures over that of the uncached ones, in dB."""
        return statistics.fmean(self.cached[number]) - statistics.fmean(self.without)

    def nearer(self, number: int) -> int:
        """Pairs of which the cached picture is nearer to the converged one."""
        return sum(a > b for a, b in zip(self.cached[number], self.without, strict=True))

    def worst(self, number: int) -> float:
        """Least PSNR of the cached pictures over that of the uncached ones, in dB."""
        return min(self.cached[number]) - min(self.without)


def cached_steps(computed: int, factor: float) -> int:
    """N, such that the preset for `factor` computes exactly `computed` of N steps."""
    return round(computed * factor)


def measure(
    testbed: Testbed, pairs: Sequence[Pair], references: ConvergedReferences
) -> list[Entry]:
    """An entry for each of `COMPUTED`."""
    presets = [peers.Presets().for_speedup(factor) for factor in FACTORS]
    without: dict[int, list[float]] = {steps: [] for steps in COMPUTED}
    cached: dict[int, list[list[float]]] = {steps: [[] for _ in FACTORS] for steps in COMPUTED}
    computed: dict[int, list[list[float]]] = {steps: [[] for _ in FACTORS] for steps in COMPUTED}
    ground = testbed.ground
    for pair in tqdm(pairs, desc=f"{ground.model}, guidance {ground.guidance:g}", unit="pair"):
        converged = decoded(testbed, references.latents(pair))
        for steps in COMPUTED:
            drawing = draw(testbed, peers.uncached_comfyui, pair, steps)
            without[steps].append(drawing.psnr_to(converged))
            for number, (factor, enable) in enumerate(zip(FACTORS, presets, strict=True)):
                drawing = draw(testbed, enable, pair, cached_steps(steps, factor))
                cached[steps][number].append(drawing.psnr_to(converged))
                computed[steps][number].append(drawing.computed)
    return [
        Entry(steps, without[steps], cached[steps], [statistics.fmean(c) for c in computed[steps]])
        for steps in COMPUTED
    ]


def figures(values: Sequence[float]) -> str:
    """Mean and worst."""
    return f"{statistics.fmean(values):.1f} / {min(values):.1f}"


def row(entry: Entry) -> list[str]:
    """A line of a model's table: the figures, and by how much the cached pictures are nearer."""
    cells = [str(entry.steps), figures(entry.without)]
    gains = []
    for number, factor in enumerate(FACTORS):
        total, computed = cached_steps(entry.steps, factor), entry.computed[number]
        note = "" if computed == entry.steps else f", {computed:.1f} computed"
        cells.append(f"{figures(entry.cached[number])} ({total} steps{note})")
        pairs = f"{entry.nearer(number)} of {len(entry.without)}"
        gains.append(f"{entry.gain(number):+.1f} / {entry.worst(number):+.1f} ({pairs})")
    return [*cells, *gains]


def table(entries: Sequence[Entry]) -> str:
    """Markdown."""
    head = [
        "computed",
        "without cache",
        *(f"{factor:g} times as many, cached" for factor in FACTORS),
        *(f"gain of {factor:g} times" for factor in FACTORS),
    ]
    return markdown(head, map(row, entries))


def summary(entries: Sequence[Entry]) -> str:
    """Which way is nearer, in how many rows and by how much, for each of `FACTORS`."""
    lines = []
    for number, factor in enumerate(FACTORS):
        gains = [entry.gain(number) for entry in entries]
        ahead = sum(gain > 0 for gain in gains)
        lines.append(
            f"- {factor:g} times as many steps with the cache are nearer than the uncached ones in "
            f"{ahead} of {len(gains)} rows;\n  the mean PSNR differs by {min(gains):+.1f} to "
            f"{max(gains):+.1f} dB, {statistics.fmean(gains):+.1f} dB on average."
        )
    return "\n".join(lines)


def page_of(tables: dict[str, list[Entry]], pairs: int) -> str:
    """The page.

    Args:
        tables: the entries of each model, by its heading.
        pairs: of each model.
    """
    entries = [entry for each in tables.values() for entry in each]
    exact = all(entry.computed == [entry.steps] * len(FACTORS) for entry in entries)
    equal = "in all rows" if exact else "except where a cell says otherwise"
    parts = [
        "# N steps with the cache, or M without?",
        f"`python -m benchmarks.more_steps --pairs {pairs} --write`: PSNR in dB to the converged "
        f"picture ({CONVERGED_STEPS} steps of a\nsecond-order solver from the same noise), mean / "
        f"worst of {pairs} pairs, Euler steps. The cache is the forecast, by\na preset for the "
        f"speed-up, without a calibration. What is equal is the number of computed steps, "
        f"{equal};\ntimes were not taken, and on a step that is skipped nothing of the model runs. "
        "A gain is cached less uncached, of the\nmeans and of the worst pictures; in brackets, "
        "of how many pairs the cached picture is the nearer one.",
        summary(entries),
        *(f"## {heading}\n\n{table(each)}" for heading, each in tables.items()),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    args = parsed(options(__doc__, RESULTS, 6))
    boot(find_comfyui(args.comfyui), OUT)
    tables: dict[str, list[Entry]] = {}
    for model, guidance in MODELS:
        testbed = load(model).on(Ground(model, COMPUTED[0], guidance))
        pairs = testbed.test_pairs(args.pairs)
        heading = f"{model}, guidance {guidance:g}"
        tables[heading] = measure(testbed, pairs, ConvergedReferences(testbed, OUT, pairs))
        print(f"{heading}\n{table(tables[heading])}", flush=True)
    publish(page_of(tables, args.pairs), RESULTS if args.write else None)


if __name__ == "__main__":
    main()
