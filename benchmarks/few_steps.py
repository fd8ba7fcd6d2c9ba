"""What skipped steps cost in runs of 8 steps and fewer, beside sampling with fewer steps.

    python -m benchmarks.few_steps --write

Each step but the first and the last is skipped alone, and the default and `fast` skip what they
will. Beside each picture stands the uncached one of as many steps as were computed for it, from the
same noise, with Euler steps. The reference is the uncached picture of all steps.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmarks import peers
from benchmarks.command import comfyui, options, parsed
from benchmarks.drawing import draw
from benchmarks.grounds import Ground
from benchmarks.peers import Enable
from benchmarks.quality import MAX_PSNR, lpips_network, similarity
from benchmarks.roughness import publish
from benchmarks.testbeds import Pair, Testbed, load
from teacache.config import TeaCacheConfig
from teacache.tables import markdown

RESULTS = Path(__file__).parent / "results" / "few_steps.md"
MODELS = (("demo", 4.0), ("digits", 5.0), ("photos", 4.0), ("photos-distilled", 4.0))
"""Names of testbeds, and guidance."""
STEPS = (8, 6, 4)


@dataclass(frozen=True)
class Way:
    """One way to skip steps of the pairs.

    Args:
        name: for the table.
        computed: evaluations of the model, of each pair.
        skipping: similarity to the picture of all steps (`quality.similarity`), of each pair.
        fewer: that of the uncached picture of as many steps as were computed.
    """

    name: str
    computed: Sequence[float]
    skipping: Sequence[dict[str, Any]]
    fewer: Sequence[dict[str, Any]]

    @property
    def nearer(self) -> tuple[int, int]:
        """Pairs that skipping changes less than fewer steps do, by PSNR, of those with a skip."""
        pairs = zip(self.skipping, self.fewer, strict=True)
        changed = [(a["psnr"], b["psnr"]) for a, b in pairs if min(a["psnr"], b["psnr"]) < MAX_PSNR]
        return sum(a > b for a, b in changed), len(changed)


def without(step: int, steps: int) -> Enable:
    """Skip `step` of `steps` alone."""

    @contextmanager
    def enable(testbed: Testbed) -> Iterator[Any]:
        from teacache.calibration.override import RunOverride
        from teacache.hosts.comfyui.patch import apply_teacache

        plan = tuple(each for each in range(steps) if each != step)
        yield apply_teacache(testbed.patcher, TeaCacheConfig(), override=RunOverride(plan=plan))[0]

    return enable


def ways(steps: int) -> Iterator[tuple[str, Enable]]:
    """What is measured: names, and how the method is enabled."""
    yield "default", peers.teacache_comfyui()
    yield "`fast`", peers.teacache_comfyui(rel_l1_thresh=None, preset="fast")
    for step in range(1, steps - 1):
        yield f"step {step + 1} alone", without(step, steps)


def measure(
    testbed: Testbed, pairs: Sequence[Pair], steps: int, network: nn.Module | None
) -> list[Way]:
    """All ways to skip steps of a run."""
    uncached: dict[tuple[Pair, int], Tensor] = {}

    def frames(pair: Pair, count: int) -> Tensor:
        if (pair, count) not in uncached:
            drawing = draw(testbed, peers.uncached_comfyui, pair, count)
            uncached[pair, count] = drawing.frames
        return uncached[pair, count]

    found = []
    for name, enable in ways(steps):
        drawings = [(pair, draw(testbed, enable, pair, steps)) for pair in pairs]
        found.append(
            Way(
                name,
                [drawing.computed for _, drawing in drawings],
                [similarity(d.frames, frames(pair, steps), network) for pair, d in drawings],
                [
                    similarity(frames(pair, round(d.computed)), frames(pair, steps), network)
                    for pair, d in drawings
                ],
            )
        )
    return found


def figures(similarities: Sequence[dict[str, Any]]) -> str:
    """PSNR mean / worst, mean SSIM and, where it was measured, mean LPIPS."""
    psnrs = [each["psnr"] for each in similarities]
    shown = [f"{statistics.fmean(psnrs):.1f} / {min(psnrs):.1f}"]
    shown += [
        f"{statistics.fmean(each[measure] for each in similarities):.4f}"
        for measure in ("ssim", "lpips")
        if measure in similarities[0]
    ]
    return ", ".join(shown)


def row(way: Way) -> list[str]:
    """A line of the table."""
    nearer, changed = way.nearer
    told = f"{nearer} of {changed}" if changed else "nothing skipped"
    computed = f"{statistics.fmean(way.computed):.1f}"
    return [way.name, computed, figures(way.skipping), figures(way.fewer), told]


def table(found: Sequence[Way]) -> str:
    """Markdown."""
    head = ["skipped", "computed", "skipping", "as many steps, uncached", "skipping is nearer"]
    return markdown(head, map(row, found))


def main() -> None:
    parser = options(__doc__, RESULTS, 8, [model for model, _ in MODELS])
    parser.add_argument(
        "--tuning", action="store_true", help="take the pairs to choose settings on"
    )
    args = parsed(parser)
    network, no_lpips = lpips_network()
    sections = []
    with comfyui(args):
        for model, guidance in MODELS:
            if model not in args.models:
                continue
            testbed = load(model).on(Ground(model, max(STEPS), guidance))
            pairs = (testbed.tuning_pairs if args.tuning else testbed.test_pairs)(args.pairs)
            for steps in STEPS:
                heading = f"## {model}, {steps} steps, guidance {guidance:g}"
                sections.append(f"{heading}\n\n{table(measure(testbed, pairs, steps, network))}")
                print(f"{sections[-1]}\n", flush=True)
    measures = "mean SSIM" if no_lpips else "mean SSIM, mean LPIPS"
    page = (
        "# Runs of 8 steps and fewer\n\n"
        f"`python -m benchmarks.few_steps --pairs {args.pairs} --write`: Euler steps of the demo, "
        f"digits and photos models. Figures are\nPSNR mean / worst in dB, {measures}, of "
        f"{args.pairs} pairs, against the uncached picture of all steps; identical ones count as\n"
        "100 dB. Steps count from 1. Skipping is nearer: of how many pairs in which a step was "
        "skipped, the picture changes less than\nby as many uncached steps as were computed.\n\n"
        + "\n\n".join(sections)
        + "\n"
    )
    publish(page, RESULTS if args.write else None)


if __name__ == "__main__":
    main()
