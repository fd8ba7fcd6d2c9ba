"""How far predictions one step ahead miss, by predictor, on uncached trajectories.

    python -m benchmarks.one_step --write

Every step of a run is computed; each predictor continues the derivatives after guidance by one
step, and its relative L1 error is averaged over thirds of the run. `best fraction` is the point of
the line that comes nearest to the truth, known only afterwards: no predictor that follows the line
can be better. What a whole cached run makes of a predictor is measured by `benchmarks.pareto`.
"""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Sequence
from itertools import pairwise
from pathlib import Path

from torch import Tensor

from benchmarks.command import comfyui, euler_grounds, options, parsed
from benchmarks.roughness import MODELS, publish
from benchmarks.sampling import sample
from benchmarks.testbeds import COMFYUI, Pair, Testbed, load
from teacache.config import TeaCacheConfig
from teacache.engine.predictors import Damped, combine, interpolation_weights
from teacache.tables import markdown

RESULTS = Path(__file__).parent / "results" / "one_step.md"
FORGETTING = 0.7
"""Of the recursive least squares: what an older step counts beside the next newer one."""
FIRST = 3
"""The first step that a cache may skip: before it nothing has been measured."""

Errors = dict[str, list[float]]
"""By predictor: the relative L1 error at each step from `FIRST` to the last but one."""


class Derivatives:
    """A `RunObserver` that keeps the derivative of each step."""

    def __init__(self) -> None:
        self.values: dict[int, Tensor] = {}

    def on_prediction(self, step: int, derivative: Tensor) -> None:
        self.values[step] = derivative.flatten().clone()

    def on_indicator_change(self, step: int, branch: Hashable, change: float) -> None:
        """Not looked at."""

    def on_residual(self, step: int, branch: Hashable, residual: Tensor) -> None:
        """Not looked at."""


def trajectory(testbed: Testbed, pair: Pair) -> tuple[list[float], list[Tensor]]:
    """The noise levels and the derivatives of an uncached run."""
    from teacache.calibration.override import RunOverride
    from teacache.hosts.comfyui.patch import apply_teacache

    kept = Derivatives()
    override = RunOverride(observer=kept)
    model, _ = apply_teacache(testbed.patcher, TeaCacheConfig(), override=override)
    levels = testbed.sigmas(testbed.ground.steps)
    sample(testbed, COMFYUI, model, [pair], levels)
    return levels.tolist(), [kept.values[step] for step in sorted(kept.values)]


def errors(sigmas: Sequence[float], values: Sequence[Tensor]) -> Errors:
    """The errors of every predictor along one trajectory of three steps or more."""
    found: Errors = {name: [] for name in ("reuse", "line", "damped", *OTHERS, "best fraction")}
    damped = Damped()
    over, under = 0.0, 0.0
    for step, value in enumerate(values[:-1]):
        if step > 1:
            older, newest = values[step - 2], values[step - 1]
            nodes = [sigmas[step - 2], sigmas[step - 1]]
            line = combine([older, newest], interpolation_weights(nodes, sigmas[step]))
            way, change = line - newest, value - newest
            norm = float(way.dot(way))
            best = float(change.dot(way)) / max(norm, 1e-30)
            fraction = min(max(over / under, 0.0), 1.0) if under else 0.5
            guesses = {
                "reuse": newest,
                "line": line,
                "damped": damped.predict(sigmas[step]),
                "recursive least squares": newest + fraction * way,
                "parabola": _parabola(sigmas, values, step),
                "best fraction": newest + min(max(best, 0.0), 1.0) * way,
            }
            over, under = FORGETTING * over + best * norm, FORGETTING * under + norm
            damped.learn(best)
            if step >= FIRST:
                for name, guess in guesses.items():
                    found[name].append(float((guess - value).abs().sum() / value.abs().sum()))
        damped.observe(sigmas[step], value)
    return found


OTHERS = ("recursive least squares", "parabola")
"""Predictors that were tried and are not in the engine."""


def _parabola(sigmas: Sequence[float], values: Sequence[Tensor], step: int) -> Tensor:
    """Through the three newest values; through the two newest while there are no three."""
    known = range(max(step - 3, 0), step)
    weights = interpolation_weights([sigmas[node] for node in known], sigmas[step])
    return combine([values[node] for node in known], weights)


def by_thirds(runs: Sequence[Errors]) -> dict[str, list[float]]:
    """By predictor: the mean error over runs and steps of each third."""
    thirds: dict[str, list[float]] = {}
    for name in runs[0]:
        count = len(runs[0][name])
        edges = [round(part * count / 3) for part in range(4)]
        thirds[name] = [
            statistics.fmean(error for run in runs for error in run[name][start:end])
            for start, end in pairwise(edges)
        ]
    return thirds


def main() -> None:
    args = parsed(options(__doc__, RESULTS, 4, MODELS))
    rows: list[list[str]] = []
    with comfyui(args):
        for ground in euler_grounds(args.models):
            testbed = load(ground.model).on(ground)
            runs = [errors(*trajectory(testbed, pair)) for pair in testbed.test_pairs(args.pairs)]
            thirds = by_thirds(runs)
            names = list(thirds)
            shown = [" ".join(f"{e:.3f}".lstrip("0") for e in thirds[name]) for name in names]
            rows.append([ground.heading, *shown])
            print("  ".join(rows[-1]), flush=True)
    page = (
        "# Errors one step ahead\n\n"
        f"`python -m benchmarks.one_step --pairs {args.pairs} --write`: relative L1 error of the "
        "derivative after guidance, predicted from\nthe steps before it in an uncached run, in "
        f"thirds of the run; mean of {args.pairs} pairs. Lower is better; `damped` is the\n"
        "engine's.\n\n" + markdown(["ground", *names], rows) + "\n"
    )
    publish(page, RESULTS if args.write else None)


if __name__ == "__main__":
    main()
