"""The trials of a calibration: what is tried for a number of computed steps, result by result."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from ..engine.strategy import Budget
from ..profiles.calibrated import PlanResult
from ..profiles.plans import Plan
from .schedule_search import PEAKS, Errors, neighbours
from .shards import Attempt

Trials = Generator[Attempt, PlanResult, tuple[Plan, PlanResult]]
"""Yields what is to be tried, is sent its result, and returns the best plan and the best result."""


def trials_of(
    starts: Sequence[Plan], errors: Errors, rates: tuple[float, ...], trials: int
) -> Trials:
    """The best of some plans, of their neighbours, and of the forecast, by measured errors.

    Args:
        starts: plans that compute one number of steps, the most promising first.
        errors: of `gap_errors`, by which neighbours are ordered.
        rates: usual errors, for the forecast.
        trials: plans that are tried beside the first one.
    """
    plan, tried = yield from _refined(starts, errors, trials)
    forecast = yield Budget(len(plan), rates)
    kept = forecast.computed_steps <= tried.computed_steps  # with more, it is no match
    beaten = kept and not tried.better_than(forecast)
    return plan, forecast if beaten else tried


def _refined(starts: Sequence[Plan], errors: Errors, trials: int) -> Trials:
    """The best of some plans and of their neighbours, in few runs."""
    best = starts[0]
    best_result = yield best
    known = {best}
    waiting = [plan for plan in dict.fromkeys(starts) if plan != best]
    for _ in range(trials):
        near = (p for p in neighbours(errors, best, PEAKS[0]) if p not in known)
        plan = waiting.pop(0) if waiting else next(near, None)
        if plan is None:
            break
        known.add(plan)
        result = yield plan
        if _errors_of(result) < _errors_of(best_result):
            best, best_result = plan, result
    return best, best_result


def _errors_of(result: PlanResult) -> tuple[float, float]:
    return result.worst_error, result.mean_error
