"""Plans: which steps of a run are computed; the others are skipped."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from ..config import TeaCacheConfig
from .conditions import same_sigmas

Plan = tuple[int, ...]
"""Indices of the computed steps, ascending; the first and the last step are always computed."""


def steps_for(steps: int, speedup: float) -> int:
    """Number of computed steps that gives a run of `steps` the wanted speed-up.

    Returns:
        `steps / speedup`, rounded; at least 2, for the first and the last step.
    """
    return min(max(round(steps / speedup), min(2, steps)), steps)


def adapt_plan(
    plan: Plan, plan_sigmas: Sequence[float], run_sigmas: Sequence[float], count: int
) -> Plan:
    """Adapt a plan to the noise levels of another run.

    Args:
        plan: the plan.
        plan_sigmas: noise levels of the run that it was made for.
        run_sigmas: noise levels of the run that it is adapted to.
        count: number of computed steps in that run.

    Returns:
        A plan whose computed steps are distributed over the noise levels as those of `plan`.
    """
    if same_sigmas(plan_sigmas, run_sigmas) and count == len(plan):
        return plan
    computed = [-plan_sigmas[step] for step in plan]
    return _evenly_spaced([_fractional_index(computed, -sigma) for sigma in run_sigmas[:-1]], count)


def _fractional_index(values: Sequence[float], value: float) -> float:
    """Index of `value` among ascending `values`, linear between them and beyond both ends."""
    if len(values) < 2:
        return value
    after = min(max(bisect_right(values, value), 1), len(values) - 1)
    low, high = values[after - 1], values[after]
    return after - 1 + (value - low) / (high - low)


def _evenly_spaced(positions: Sequence[float], count: int) -> Plan:
    """`count` steps, first and last included, whose ascending `positions` are about equidistant."""
    last = len(positions) - 1
    count = min(max(count, min(2, last + 1)), last + 1)
    chosen: list[int] = []
    for number in range(count):
        target = positions[0] + (positions[-1] - positions[0]) * (number / max(count - 1, 1))
        first = chosen[-1] + 1 if chosen else 0
        candidates = range(first, last - (count - 1 - number) + 1)
        chosen.append(min(candidates, key=lambda step: abs(positions[step] - target)))
    return tuple(chosen)


def apply_limits(plan: Plan, steps: int, config: TeaCacheConfig) -> Plan:
    """Add the steps that the user's settings require to be computed.

    Args:
        plan: the plan.
        steps: number of steps of the run.
        config: of which `start_percent`, `end_percent` and `max_skip` are used.
    """
    computed: list[int] = []
    skipped = 0
    for step in range(steps):
        outside = step < config.start_percent * steps or step >= config.end_percent * steps
        capped = bool(config.max_skip) and skipped >= config.max_skip
        if step in plan or outside or capped:
            computed.append(step)
            skipped = 0
        else:
            skipped += 1
    return tuple(computed)
