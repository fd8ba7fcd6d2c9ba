"""A wanted number of computed steps, kept by thresholds that are solved for as the run goes on."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from calibrations import shifted_sigmas
from hypothesis import given
from hypothesis import strategies as st

from teacache.config import FORCE_COMPUTE
from teacache.engine.budget import EARLY, MOST, StepBudget, one_step_growth, rates_at, usual_rates
from teacache.engine.indicators import ErrorRate
from teacache.schedule import Schedule


def run_of(
    sigmas: tuple[float, ...],
    errors: list[float],
    count: int,
    rates: list[float] | None = None,
    max_skip: int = 0,
) -> list[int]:
    """Computed steps of a run whose predictions one step ahead miss by `errors`."""
    steps, schedule = len(sigmas) - 1, Schedule(sigmas)
    sizes = [schedule.relative_step_size(a, b) for a, b in pairwise(sigmas)]
    fixed = [step < 3 or step == steps - 1 for step in range(steps)]
    budget = StepBudget(sigmas, sizes, rates or usual_rates(sigmas), fixed, count, max_skip)
    computed: list[int] = []
    accumulated, rate = 0.0, 0.0
    for step in range(steps):
        skip = False
        if not fixed[step]:
            older, newest = (sigmas[computed[place]] for place in (-2, -1))
            ahead = abs(sigmas[step] - newest)
            distance = rate * ahead * abs(sigmas[step] - older) * sizes[step]
            accumulated += budget.relative(distance, step, [older, newest], rate)
            beyond = ahead > ErrorRate.horizon * abs(newest - older)
            capped = bool(max_skip) and step - computed[-1] > max_skip
            skip = accumulated < 1 and not beyond and not capped
        budget.record(step, skip)
        if not skip:
            computed.append(step)
            accumulated = 0.0
            rate = errors[step] / one_step_growth(sigmas, max(step, 2))
    return computed


@given(
    steps=st.integers(12, 60),
    shift=st.floats(1.0, 5.0),
    speedup=st.floats(1.1, 2.2),
    seed=st.randoms(use_true_random=False),
)
def test_the_number_is_kept_whatever_the_errors(
    steps: int, shift: float, speedup: float, seed: st.DataObject
) -> None:
    errors = [seed.uniform(0.001, 0.05) for _ in range(steps)]  # type: ignore[attr-defined]
    count = max(round(steps / speedup), 5)
    computed = run_of(shifted_sigmas(steps, shift), errors, count)
    # Errors that jump from step to step may leave a step that nothing was left to skip for.
    assert abs(len(computed) - count) <= max(1, round(0.1 * count))
    assert computed[:3] == [0, 1, 2] and computed[-1] == steps - 1


@pytest.mark.parametrize("speedup", [1.25, 1.5, 1.8, 2.0])
def test_errors_as_usual_give_exactly_the_number(speedup: float) -> None:
    sigmas = shifted_sigmas(20, 3.0)
    errors = [
        rate * one_step_growth(sigmas, max(step, 2)) / 50
        for step, rate in enumerate(usual_rates(sigmas))
    ]
    count = round(20 / speedup)
    assert len(run_of(sigmas, errors, count)) == count


def test_large_errors_are_computed_where_they_are() -> None:
    sigmas = shifted_sigmas(40, 1.0)
    early = [0.4 if step < 20 else 0.01 for step in range(40)]
    first, last = (run_of(sigmas, errors, 20) for errors in (early, early[::-1]))
    assert sum(step < 20 for step in last) < sum(step < 20 for step in first)


def test_a_models_own_errors_place_the_steps() -> None:
    """The same sample: a model known to be hard late keeps steps for later."""
    sigmas, errors = shifted_sigmas(40, 1.0), [0.05] * 40
    known = [1.0 / one_step_growth(sigmas, max(step, 2)) for step in range(40)]
    late = [rate * (50.0 if step > 25 else 1.0) for step, rate in enumerate(known)]
    first = sum(step <= 25 for step in run_of(sigmas, errors, 20, known))
    kept = sum(step <= 25 for step in run_of(sigmas, errors, 20, late))
    assert kept < first


def test_all_are_computed_where_all_may_be_and_none_is_left_to_skip() -> None:
    assert run_of(shifted_sigmas(12), [0.001] * 12, 12) == list(range(12))


def test_the_users_limit_of_skips_holds() -> None:
    computed = run_of(shifted_sigmas(30, 1.0), [0.05] * 30, 19, max_skip=1)
    assert max(b - a for a, b in pairwise(computed)) == 2 and len(computed) == 19


def test_where_errors_are_too_large_more_steps_are_computed_and_it_is_known() -> None:
    sigmas = shifted_sigmas(20, 3.0)
    schedule = Schedule(sigmas)
    sizes = [schedule.relative_step_size(a, b) for a, b in pairwise(sigmas)]
    nodes = [sigmas[1], sigmas[2]]
    for error, exceeded in ((0.05, False), (5.0, True)):
        budget = StepBudget(sigmas, sizes, usual_rates(sigmas), [False] * 20, 8)
        for step in range(3):
            budget.record(step, skipped=False)
        budget.relative(0.1, 3, nodes, error / one_step_growth(sigmas, 3))
        assert budget.exceeded == exceeded and 0 < budget.threshold <= MOST
        assert budget.notes(8) == [], "as many as wanted"
        told = [
            "8 computed steps were wanted, and 9 were computed: with fewer, this picture would "
            "change more than by sampling with fewer steps."
        ]
        assert budget.notes(9) == (told if exceeded else [])


@pytest.mark.parametrize("rate", [None, math.nan, math.inf])
def test_an_error_that_is_no_number_is_computed(rate: float | None) -> None:
    sigmas = shifted_sigmas(12)
    budget = StepBudget(sigmas, [1.0] * 12, usual_rates(sigmas), [False] * 12, 6)
    assert budget.relative(0.1, 5, [sigmas[3], sigmas[4]], rate) == FORCE_COMPUTE


def test_the_threshold_stays_between_computed_steps() -> None:
    sigmas = shifted_sigmas(30, 1.0)
    schedule = Schedule(sigmas)
    sizes = [schedule.relative_step_size(a, b) for a, b in pairwise(sigmas)]
    budget = StepBudget(sigmas, sizes, usual_rates(sigmas), [False] * 30, 12)
    for step in range(5):
        budget.record(step, skipped=False)
    nodes = [sigmas[3], sigmas[4]]
    first = budget.relative(1.0, 5, nodes, 2.0)
    budget.record(5, skipped=True)
    assert budget.relative(1.0, 6, nodes, 2.0) == first
    budget.record(6, skipped=False)
    assert budget.relative(1.0, 7, [sigmas[4], sigmas[6]], 2.0) != first


def test_rates_follow_the_levels_of_another_schedule() -> None:
    made, run = shifted_sigmas(50), shifted_sigmas(20)
    rates = [math.exp(3 * sigma) for sigma in made[:-1]]
    assert rates_at(rates, made, made) == pytest.approx(rates)
    inside = [sigma for sigma in run[:-1] if sigma >= made[-2]]
    assert rates_at(rates, made, run)[: len(inside)] == pytest.approx(
        [math.exp(3 * sigma) for sigma in inside], rel=1e-6
    )


def test_usual_errors_are_largest_at_both_ends() -> None:
    sigmas = shifted_sigmas(20, 3.0)
    errors = [
        rate * one_step_growth(sigmas, max(step, 2))
        for step, rate in enumerate(usual_rates(sigmas))
    ]
    assert errors[3] > 2 * errors[10] and errors[18] > 2 * errors[10]


def test_where_another_run_follows_the_last_errors_are_not_those_of_an_end() -> None:
    sigmas = [1.0 - 0.03 * step for step in range(11)]
    spans = [one_step_growth(sigmas, max(step, 2)) for step in range(10)]

    def relative(ends: bool) -> list[float]:
        rates = usual_rates(sigmas, ends=ends)
        return [rate * span for rate, span in zip(rates, spans, strict=True)]

    whole, part = relative(True), relative(False)
    assert part == sorted(part, reverse=True) and part[-1] == pytest.approx(1.0, abs=0.1)
    assert part[0] == pytest.approx(math.exp(EARLY)) and whole[-1] > 2 * part[-1]
