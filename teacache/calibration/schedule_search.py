"""Which steps to compute: the best plan for every number of computed steps, from one trajectory.

The error that a skip adds to the sample follows from the derivatives along an uncached trajectory
alone, and predictions are linear in them: every error is a norm sqrt(w' G w), with the Gram matrix
G of the derivatives. Dynamic programming over pairs of computed steps then gives, for each number
of them, the plan with the least sum of (error of a gap) ** peak. The power makes the worst gap
count most, as LeMiCa (arXiv 2511.00090) and MeanCache do it, there with other errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from ..engine.forward import correction_gain
from ..engine.predictors import Damped, interpolation_weights
from .trajectory import NOTHING, Floats, Trajectory, geometric_mean

PEAKS = (4.0, 2.0, 1.0)
"""Powers to which the errors of gaps are added, in order of preference."""
REACH = 12
"""Longest gap between computed steps that is considered."""
BANDS = 6
"""Parts of a run whose sensitivity is measured one by one."""


def gap_error(run: Trajectory, before: int | None, start: int, end: int, euler: bool) -> float:
    """The error of the sample from skipping the steps between the computed `start` and `end`.

    The skipped steps are predicted half-way along the line through `before` and `start`, as in a
    plan (`Damped`, never updated). With Euler's method the step at `end` then corrects the sample
    by the parabola through all three steps, with a gain (`PredictionForward`). Until then the
    model's input is off, which changes its value at `end` by about the error over the noise level.

    Args:
        before: the computed step before `start`, None for none.

    Returns:
        The norm of the error over the trajectory's length.
    """
    if end == start + 1:
        return 0.0
    predictor = Damped()
    past = [start] if before is None else [before, start]
    for step in past:
        predictor.observe(run.axis[step], NOTHING)
    expected = dict(zip(past, predictor.weights(run.axis[end]), strict=True))
    error = run.norm({**expected, end: -1.0}) / max(run.norm({end: 1.0}), 1e-30)
    gain = float(correction_gain(torch.tensor(error)))
    nodes = [*past, end]
    levels = [run.axis[node] for node in nodes]
    missed: dict[int, float] = dict.fromkeys(nodes, 0.0)
    corrected = dict(missed)
    for step in range(start + 1, end):
        span, level = run.spans[step], run.axis[step]
        missed[step] = corrected[step] = -span
        for node, weight in zip(past, predictor.weights(level), strict=True):
            missed[node] += span * weight
            corrected[node] += span * weight * (1 - gain)
        for node, weight in zip(nodes, interpolation_weights(levels, level), strict=True):
            corrected[node] += span * weight * gain
    input_error = run.norm(missed)
    if not euler:
        return input_error
    return run.norm(corrected) + input_error * abs(run.spans[end]) / max(run.sigmas[end], 1e-3)


Errors = dict[tuple[int, int, int], Floats]
"""By gap (computed step before it or -1, start, end): the error in each run, [runs]."""


def best_plans(errors: Errors, steps: int, peak: float) -> dict[int, tuple[int, ...]]:
    """The best plan for each number of computed steps.

    Args:
        errors: of `gap_errors`.
        peak: power to which the errors are added.

    Returns:
        The computed steps, in order, with the first and the last one in every plan.
    """
    last = steps - 1
    costs = {gap: float(np.mean(each**peak)) for gap, each in errors.items()}
    # table[count][(before, at)] = (sum of costs, the step before `before`)
    table: list[dict[tuple[int, int], tuple[float, int]]] = [{}, {(-1, 0): (0.0, -1)}]
    for count in range(2, steps + 1):
        reached: dict[tuple[int, int], tuple[float, int]] = {}
        for (before, at), (total, _) in table[count - 1].items():
            for end in range(at + 1, min(at + REACH, last) + 1):
                cost = total + costs[before, at, end]
                known = reached.get((at, end))
                if known is None or cost < known[0]:
                    reached[at, end] = (cost, before)
        table.append(reached)
    plans: dict[int, tuple[int, ...]] = {}
    for count in range(2, steps + 1):
        ends = [(total, pair) for pair, (total, _) in table[count].items() if pair[1] == last]
        if ends:
            plans[count] = _walk(table, count, min(ends)[1])
    return plans


def _walk(
    table: list[dict[tuple[int, int], tuple[float, int]]], count: int, pair: tuple[int, int]
) -> tuple[int, ...]:
    steps = [pair[1]]
    while count > 1:
        before, at = pair
        steps.append(before)
        pair = (table[count][before, at][1], before)
        count -= 1
    return tuple(reversed(steps))


def gap_errors(runs: Sequence[Trajectory], euler: bool) -> Errors:
    """The error of every gap that is considered, in `runs` over the same noise levels."""
    last = runs[0].steps - 1
    errors: Errors = {}
    for start in range(last):
        for before in range(max(-1, start - REACH), start):
            if before == -1 and start > 0:
                continue
            for end in range(start + 1, min(start + REACH, last) + 1):
                first = None if before == -1 else before
                gap = [gap_error(run, first, start, end, euler) for run in runs]
                errors[before, start, end] = np.array(gap)
    return errors


def plan_error(errors: Errors, plan: Sequence[int], peak: float) -> float:
    """The sum that `best_plans` minimises; infinite for a plan with a gap that is too long."""
    total, before = 0.0, -1
    for start, end in pairwise(plan):
        known = errors.get((before, start, end))
        if known is None:
            return math.inf
        total += float(np.mean(known**peak))
        before = start
    return total


def neighbours(errors: Errors, plan: tuple[int, ...], peak: float) -> list[tuple[int, ...]]:
    """Plans with one computed step moved by one, the most promising first."""
    plans = []
    for index in range(1, len(plan) - 1):
        for moved in (plan[index] - 1, plan[index] + 1):
            if plan[index - 1] < moved < plan[index + 1]:
                plans.append((*plan[:index], moved, *plan[index + 1 :]))
    return sorted(plans, key=lambda other: (plan_error(errors, other, peak), other))


def probe_plans(steps: int) -> list[tuple[int, ...]]:
    """One plan for each of `BANDS` parts of a run: every other step of that part is skipped."""
    edges = np.linspace(1, steps - 1, BANDS + 1).round().astype(int).tolist()
    plans = []
    for start, end in pairwise(edges):
        skipped = set(range(start, end, 2))
        if skipped:
            plans.append(tuple(step for step in range(steps) if step not in skipped))
    return plans


def weighted(
    errors: Errors, probes: Sequence[tuple[int, ...]], measured: Sequence[Sequence[float]]
) -> Errors:
    """`errors`, each times the factor by which an error at that step grows until the run's end.

    Args:
        probes: of `probe_plans`.
        measured: for each of them the error of the sampled latent, in each run.
    """
    centres, growths = [], []
    for plan, ends in zip(probes, measured, strict=True):
        gaps = [
            (before, start, end)
            for before, start, end in zip((-1, *plan), plan, plan[1:], strict=False)
            if end > start + 1
        ]
        missed = np.sum([errors[gap] for gap in gaps], axis=0)
        if not (missed > 0).all() or not min(ends) > 0:
            return errors
        growths.append(geometric_mean(np.array(ends) / missed))
        centres.append(float(np.mean([start + 1 for _, start, _ in gaps])))
    if not centres or not min(growths) > 0:
        return errors
    return {
        gap: each * float(np.exp(np.interp((gap[1] + gap[2]) / 2, centres, np.log(growths))))
        for gap, each in errors.items()
    }
