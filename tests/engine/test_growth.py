"""How errors grow with the distance to the cached values."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from teacache.engine.budget import StepBudget, usual_rates
from teacache.engine.device import DeviceReader
from teacache.engine.growth import interpolation_growth, random_walk_growth
from teacache.engine.indicators import ErrorRate
from teacache.engine.predictors import make_predictor

LEVELS = st.floats(0.0, 1.0)


@given(level=LEVELS, nodes=st.lists(LEVELS, min_size=1, max_size=3))
def test_nothing_is_missed_at_a_cached_value(level: float, nodes: list[float]) -> None:
    for growth in (interpolation_growth, random_walk_growth):
        assert growth(level, [*nodes, level]) == 0.0


@given(ahead=st.floats(1e-3, 0.3), times=st.floats(1.0, 9.0), older=st.floats(0.91, 2.0))
def test_of_a_random_walk_only_the_newest_value_counts(
    ahead: float, times: float, older: float
) -> None:
    near, far = (random_walk_growth(0.9 - part, [older, 0.9]) for part in (ahead, ahead * times))
    assert far == pytest.approx(near * times**0.5)
    assert interpolation_growth(0.9 - ahead, [older, 0.9]) == pytest.approx(
        ahead * (older - 0.9 + ahead)
    )


def test_errors_of_a_random_walk_are_foretold() -> None:
    """Two steps after a computed value, as the square root says, and not as a smooth one would."""
    generator = torch.Generator().manual_seed(0)
    levels = [1.0 - 0.04 * step for step in range(24)]
    steps = torch.randn(len(levels), 4000, generator=generator) * 0.2
    walk = 20.0 + steps.cumsum(0)
    told: dict[str, list[float]] = {"walk": [], "smooth": []}
    missed = []
    for name, growth in (("walk", random_walk_growth), ("smooth", interpolation_growth)):
        predictor, rate = make_predictor("damped"), ErrorRate(DeviceReader(), growth)
        for step, level in enumerate(levels[:-2]):
            value = walk[step][None]
            rate.measure(predictor, level, value)
            update = predictor.deferred_update(level, value)
            if update is not None:
                update.receive(float(update.value))
            predictor.observe(level, value)
            if step > 8:
                distance = rate.distance(predictor, levels[step + 2], 1.0)
                assert distance is not None
                told[name].append(distance)
                ahead = predictor.predict(levels[step + 2]) - walk[step + 2]
                missed.append(float(ahead.abs().mean() / 20.0))
    truth = statistics.fmean(missed)
    assert statistics.fmean(told["walk"]) == pytest.approx(truth, rel=0.1)
    assert statistics.fmean(told["smooth"]) > 1.8 * truth


@given(count=st.integers(14, 26))
def test_the_number_is_kept_with_noise(count: int) -> None:
    """Errors that are as expected, and grow as a random walk, give the number that is wanted."""
    steps = 30
    sigmas = [1.0 - step / steps for step in range(steps + 1)]
    fixed = [step < 3 or step == steps - 1 for step in range(steps)]
    rates = usual_rates(sigmas, noisy=True)
    budget = StepBudget(sigmas, [1.0] * steps, rates, fixed, count, growth=random_walk_growth)
    computed: list[int] = []
    accumulated = 0.0
    for step in range(steps):
        skip = False
        if not fixed[step]:
            nodes, rate = [sigmas[number] for number in computed[-2:]], rates[computed[-1]] / 500
            distance = rate * random_walk_growth(sigmas[step], nodes)
            accumulated += budget.relative(distance, step, nodes, rate)
            skip = accumulated < 1
        budget.record(step, skip)
        if not skip:
            computed.append(step)
            accumulated = 0.0
    assert abs(len(computed) - count) <= 1
