"""How well a run's own estimate of its change agrees with the truth.

    python -m benchmarks.expected_change --write

Each ground's pairs are sampled by the forecast at several thresholds. The estimate
(`RunReport.expected_psnr`) comes from the errors that the run measured, the truth from the uncached
picture. The line behind the estimate is fitted on tuning pairs (`--tuning` prints that fit); the
page's figures are of pairs that nothing was chosen on.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from tqdm import tqdm

from benchmarks.equal_steps import table_of
from benchmarks.grounds import GROUNDS, ROUGH, Ground
from benchmarks.quality import MAX_PSNR, decoded
from benchmarks.roughness import MODELS, publish
from benchmarks.sampling import sample
from benchmarks.testbeds import COMFYUI, Pair, Testbed, load
from teacache.comparison.metrics import psnr
from teacache.config import TeaCacheConfig
from teacache.hosts.comfyui.headless.boot import boot, find_comfyui
from teacache.report import PSNR_AT_ONE, PSNR_PER_DECADE

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
    from teacache.hosts.comfyui.patch import apply_teacache

    ground, found = testbed.ground, []
    levels = testbed.sigmas(ground.steps)
    for pair in tqdm(pairs, desc=ground.name, unit="pair"):
        uncached = sample(testbed, COMFYUI, testbed.patcher, [pair], levels)
        reference = decoded(testbed, uncached.latents)
        for threshold in THRESHOLDS:
            reports: list[dict[str, Any]] = []

            def keep(event: str, data: dict[str, Any], into: Any = reports) -> None:
                if event == "end":
                    into.append(data["report"])

            config = TeaCacheConfig(rel_l1_thresh=threshold)
            model = apply_teacache(testbed.patcher, config, keep)[0]
            made = sample(testbed, COMFYUI, model, [pair], levels)
            (report,) = reports
            if report["expected_psnr"] is not None:
                true = min(psnr(decoded(testbed, made.latents), reference), MAX_PSNR)
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
    return table_of(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=4, help="of each ground")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--tuning", action="store_true", help="fit the line on tuning pairs")
    parser.add_argument("--comfyui", type=Path)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    args = parser.parse_args()
    if args.pairs < 1:
        parser.error(f"--pairs must be at least 1, not {args.pairs}")
    torch.set_num_threads(1)
    every: list[Run] = []
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        boot(find_comfyui(args.comfyui), Path(folder))
        for ground in chosen(args.models):
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


def chosen(models: Sequence[str]) -> list[Ground]:
    """The rough grounds with Euler steps of some models."""
    return [
        ground
        for ground in GROUNDS
        if ground.model in models and ground.sampler == "euler" and ground.kind == ROUGH
    ]


if __name__ == "__main__":
    main()
