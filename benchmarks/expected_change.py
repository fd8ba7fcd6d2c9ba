"""How well a run's own estimate of its change agrees with the truth.

    python -m benchmarks.expected_change --write

Each ground's pairs are sampled by the forecast at several thresholds. The estimate
(`RunReport.expected_psnr`) comes from the errors that the run measured, the truth from the uncached
picture. The line behind the estimate is fitted on tuning pairs (`--tuning` prints that fit); the
page's figures are of pairs that nothing was chosen on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from tqdm import tqdm

from benchmarks.command import comfyui, euler_grounds, options, parsed
from benchmarks.drawing import draw
from benchmarks.grounds import ROUGH
from benchmarks.peers import teacache_comfyui, uncached_comfyui
from benchmarks.roughness import MODELS, publish
from benchmarks.testbeds import Pair, Testbed, load
from teacache.report import PSNR_AT_ONE, PSNR_PER_DECADE
from teacache.tables import markdown

RESULTS = Path(__file__).parent / "results" / "expected_change.md"
THRESHOLDS = (0.03, 0.1, 0.2, 0.4, 0.8, 1.6)


@dataclass(frozen=True)
class Run:
    """One run: its ground, the error that it expected, what it estimated, and the true PSNR."""

    ground: str
    expected_error: float
    estimated: float
    true: float


def runs_of(testbed: Testbed, pairs: Sequence[Pair]) -> list[Run]:
    """The runs of a ground that skipped something."""
    ground, found = testbed.ground, []
    for pair in tqdm(pairs, desc=ground.name, unit="pair"):
        reference = draw(testbed, uncached_comfyui, pair).frames
        for threshold in THRESHOLDS:
            reports: list[dict[str, Any]] = []

            def keep(event: str, data: dict[str, Any], into: Any = reports) -> None:
                if event == "end":
                    into.append(data["report"])

            drawing = draw(testbed, teacache_comfyui(keep, rel_l1_thresh=threshold), pair)
            (report,) = reports
            if report["expected_psnr"] is not None:
                true = drawing.psnr_to(reference)
                error = 10 ** ((PSNR_AT_ONE - report["expected_psnr"]) / PSNR_PER_DECADE)
                found.append(Run(ground.name, error, report["expected_psnr"], true))
    return found


def row(name: str, runs: Sequence[Run]) -> list[str]:
    """A line of the table: runs, rank correlation, mean difference and its deviation in dB."""
    estimated = np.array([run.estimated for run in runs])
    true = np.array([run.true for run in runs])
    rank = spearmanr(estimated, true).statistic
    off = estimated - true
    return [name, str(len(runs)), f"{rank:.2f}", f"{off.mean():+.1f}", f"{off.std():.1f}"]


def fitted(runs: Sequence[Run]) -> tuple[float, float]:
    """`PSNR_AT_ONE` and `PSNR_PER_DECADE` by least squares."""
    slope, intercept = np.polyfit(
        [math.log10(run.expected_error) for run in runs], [run.true for run in runs], 1
    )
    return float(intercept), -float(slope)


def table(rows: Sequence[Sequence[str]]) -> str:
    head = ["ground", "runs", "rank correlation", "estimate − truth, dB", "its deviation, dB"]
    return markdown(head, rows)


def main() -> None:
    parser = options(__doc__, RESULTS, 4, MODELS)
    parser.add_argument("--tuning", action="store_true", help="fit the line on tuning pairs")
    args = parsed(parser)
    every: list[Run] = []
    rows: list[list[str]] = []
    with comfyui(args):
        for ground in euler_grounds(args.models):
            if ground.kind != ROUGH:
                continue
            testbed = load(ground.model).on(ground)
            choose = testbed.tuning_pairs if args.tuning else testbed.test_pairs
            runs = runs_of(testbed, choose(args.pairs))
            if len(runs) > 1:
                rows.append(row(ground.name, runs))
            every += runs
    rows.append(row("all", every))
    if args.tuning:
        intercept, slope = fitted(every)
        print(f"{table(rows)}\n\nfit: {intercept:.1f} - {slope:.1f} log10(expected error)")
        return
    page = (
        "# A run's own estimate of its change\n\n"
        f"`python -m benchmarks.expected_change --pairs {args.pairs} --write`: PSNR to the "
        "uncached picture, estimated by the\nforecast from the errors that it measured "
        f"({PSNR_AT_ONE:g} − {PSNR_PER_DECADE:g} log10 of the expected error), against the truth, "
        f"at\nthresholds {', '.join(f'{value:g}' for value in THRESHOLDS)}. Within a ground the "
        "order is right as far as the rank correlation is near 1; between models\nthe height is "
        f"off by some dB.\n\n{table(rows)}\n"
    )
    publish(page, RESULTS if args.write else None)


if __name__ == "__main__":
    main()
