"""Plans: which steps of a run are computed. Adapting them, and a plan where none was calibrated."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from ..config import TeaCacheConfig
from ..schedule import Schedule
from .conditions import same_levels

Plan = tuple[int, ...]


def steps_for(steps: int, speedup: float) -> int:
    """How many of `steps` are computed for a wanted speed-up; the first and the last one are."""
    return min(max(round(steps / speedup), min(2, steps)), steps)


def generic_plan(sigmas: Sequence[float], count: int) -> Plan:
    """`count` computed steps, evenly spread by relative step size, for an unknown model."""
    schedule, travelled = Schedule(sigmas), [0.0]
    for start, end in pairwise(sigmas[:-1]):
        travelled.append(travelled[-1] + schedule.relative_step_size(start, end))
    return _nearest(travelled, count)


def adapted_plan(plan: Plan, made: Sequence[float], run: Sequence[float], count: int) -> Plan:
    """`plan` for the noise levels `made`, carried over to a run's, with `count` computed steps.

    The computed steps lie as dense over the noise levels as in the plan.
    """
    if same_levels(made, run) and count == len(plan):
        return plan
    levels = [-made[step] for step in plan]
    return _nearest([_place(levels, -sigma) for sigma in run[:-1]], count)


def _place(levels: Sequence[float], level: float) -> float:
    """Where `level` lies among rising `levels`, in their numbers; goes on beyond the ends."""
    if len(levels) < 2:
        return level
    after = min(max(bisect_right(levels, level), 1), len(levels) - 1)
    low, high = levels[after - 1], levels[after]
    return after - 1 + (level - low) / (high - low)


def _nearest(places: Sequence[float], count: int) -> Plan:
    """`count` steps whose `places` (rising) are nearest to evenly spaced ones, ends included."""
    last = len(places) - 1
    count = min(max(count, min(2, last + 1)), last + 1)
    chosen: list[int] = []
    for number in range(count):
        wanted = places[0] + (places[-1] - places[0]) * (number / max(count - 1, 1))
        first = chosen[-1] + 1 if chosen else 0
        room = range(first, last - (count - 1 - number) + 1)
        chosen.append(min(room, key=lambda step: abs(places[step] - wanted)))
    return tuple(chosen)


def within_limits(plan: Plan, steps: int, config: TeaCacheConfig) -> Plan:
    """`plan`, with what the user's range of steps and limit of skips in a row demand computed."""
    found: list[int] = []
    skipped = 0
    for step in range(steps):
        outside = step < config.start_percent * steps or step >= config.end_percent * steps
        capped = bool(config.max_skip) and skipped >= config.max_skip
        if step in plan or outside or capped:
            found.append(step)
            skipped = 0
        else:
            skipped += 1
    return tuple(found)
