"""Half precision: what a damped line learns from rounded values, and how large their errors are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from teacache.engine.predictors import Damped, Linear, combine
from teacache.engine.rounding import MOST_GAIN, rounding_error

ELEMENTS = 16384
STEPS = 20
HALF = (torch.bfloat16, torch.float16)
EPSILON = {torch.bfloat16: 2**-7, torch.float16: 2**-10}

Learned = tuple[Damped, list[float]]
"""A predictor at the end of a run, and what it was told at each step: NaN for nothing."""


def standard(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (1, ELEMENTS)), generator=torch.Generator().manual_seed(seed))


def slow(change: float, bend: float = 0.1) -> list[torch.Tensor]:
    """A trajectory that changes by `change` of itself from beginning to end, nearly on a line."""
    base, slope, curve = standard(0), standard(1), standard(2)
    shares = [step / STEPS for step in range(STEPS)]
    return [base + change * (slope * s + bend * curve * s * s) for s in shares]


def learned(
    values: Sequence[torch.Tensor], rounding: Callable[[torch.Tensor], torch.Tensor | None]
) -> Learned:
    """What is learned where every step of a trajectory is computed."""
    predictor, told = Damped(), []
    for step, value in enumerate(values):
        level = 1 - step / STEPS
        update = predictor.deferred_update(level, value, rounding(value))
        if update is not None:
            told.append(float(update.value))
            update.receive(told[-1])
        predictor.observe(level, value)
    return predictor, told


def nothing(value: torch.Tensor) -> None:
    return None


def fraction(values: Sequence[torch.Tensor]) -> float:
    return learned(values, nothing)[0].fraction


# --- what is learned -----------------------------------------------------------------------------


def quantised(
    values: Sequence[torch.Tensor], dtype: torch.dtype
) -> tuple[list[torch.Tensor], float]:
    """The values in another type, and the relative size of what that loses."""
    rounded = [value.to(dtype) for value in values]
    lost = sum(float((a.float() - b).square().sum()) for a, b in zip(rounded, values, strict=True))
    return rounded, math.sqrt(lost / sum(float(value.square().sum()) for value in values))


@settings(deadline=None, derandomize=True, max_examples=12)
@given(
    dtype=st.sampled_from(HALF),
    resolved=st.floats(6.0, 13.0),
    bend=st.floats(0.0, 0.3),
    power=st.integers(-3, 3),
)
def test_the_same_is_learned_from_a_quantised_trajectory(
    dtype: torch.dtype, resolved: float, bend: float, power: int
) -> None:
    """`resolved`: how often epsilon the trajectory changes; each step changes a part of that."""
    values = [2.0**power * value for value in slow(resolved * EPSILON[dtype], bend)]
    rounded, lost = quantised(values, dtype)
    single, before = fraction(values), fraction(rounded)
    after, told = learned(rounded, lambda value: torch.tensor(lost))
    assert not any(math.isnan(each) for each in told)
    assert single > 0.9 and before < single - 0.12, "rounding shows"
    assert after.fraction == pytest.approx(single, abs=0.08)


@settings(deadline=None, derandomize=True, max_examples=6)
@given(
    dtype=st.sampled_from(HALF),
    scale=st.floats(2.0, 8.0),
    resolved=st.floats(2.0, 4.0),
    seed=st.integers(1, 1000),
)
def test_the_same_is_learned_where_guidance_enlarges_the_errors_of_a_model(
    dtype: torch.dtype, scale: float, resolved: float, seed: int
) -> None:
    """Each branch errs by epsilon, independently at each step, as the models of the benchmarks."""
    epsilon = EPSILON[dtype]
    enlarged = epsilon * math.hypot(scale, scale - 1)
    exact = slow(resolved * STEPS * enlarged)
    told = standard(seed)
    values, roundings = [], []
    for step, value in enumerate(exact):
        size = epsilon * value.square().mean().sqrt()
        noise = [size * standard(seed * STEPS * 2 + 2 * step + place) for place in range(2)]
        positive = value + 0.1 * (scale - 1) / scale * told + noise[0]
        negative = value - 0.1 * told + noise[1]
        values.append(negative + scale * (positive - negative))
        branches = [positive.to(dtype), negative.to(dtype)]
        roundings.append(rounding_error(dtype, values[-1], branches))
    single, before = fraction(exact), fraction(values)
    remaining = iter(roundings)
    after, _ = learned(values, lambda value: next(remaining))
    assert before < single - 0.12, "rounding shows"
    assert abs(after.fraction - single) < (single - before) / 2


@settings(deadline=None, derandomize=True, max_examples=10)
@given(dtype=st.sampled_from(HALF), power=st.integers(-4, 4), change=st.floats(0.05, 1.0))
def test_the_scale_of_the_values_changes_nothing(
    dtype: torch.dtype, power: int, change: float
) -> None:
    values = [value.to(dtype).clamp(-4, 4) for value in slow(change)]
    scaled = [value * 2.0**power for value in values]

    def learn(given: Sequence[torch.Tensor]) -> list[float]:
        return learned(given, lambda value: rounding_error(dtype, value))[1]

    assert learn(scaled) == pytest.approx(learn(values), rel=1e-5, nan_ok=True)


def test_nothing_is_learned_from_what_is_rounding_alone() -> None:
    values = [standard(0) * (1 + 2**-7 * standard(step + 1)) for step in range(STEPS)]
    predictor, told = learned(values, lambda value: rounding_error(torch.bfloat16, value))
    assert all(math.isnan(each) or each == pytest.approx(0.5, abs=1.5) for each in told)
    assert sum(map(math.isnan, told)) >= len(told) / 2
    assert fraction(values) < 0.05 < predictor.fraction


def test_values_of_half_precision_are_compared_in_full() -> None:
    """The line's end lies between two numbers of the type."""
    values = [torch.full((1, 8), level, dtype=torch.bfloat16) for level in (1.0, 1.0078125)]
    predictor = Damped()
    for level, value in zip((0.9, 0.8), values, strict=True):
        predictor.observe(level, value)
    update = predictor.deferred_update(0.75, torch.full((1, 8), 1.015625, dtype=torch.bfloat16))
    assert update is not None
    assert float(update.value) == pytest.approx(2.0)


@settings(deadline=None, derandomize=True, max_examples=10)
@given(
    dtype=st.sampled_from([torch.float32, torch.float64]),
    change=st.floats(1e-4, 1.0),
    gap=st.floats(0.01, 0.2),
)
def test_of_full_precision_nothing_is_taken_off(
    dtype: torch.dtype, change: float, gap: float
) -> None:
    """Bit by bit the ratio <v - v1, line - v1> / |line - v1|^2."""
    older, newest, value = (each.to(dtype) for each in slow(change)[:3])
    assert rounding_error(dtype, value, [value, newest]) is None
    predictor = Damped()
    predictor.observe(0.9, older)
    predictor.observe(0.8, newest)
    update = predictor.deferred_update(0.8 - gap, value, rounding_error(dtype, value))
    assert update is not None
    ends = Linear.weights(predictor, 0.8 - gap)
    line = (combine([older, newest], ends) - newest).flatten().float()
    moved = (value - newest).flatten().float()
    assert torch.equal(update.value, torch.dot(moved, line) / torch.dot(line, line))


# --- how large the errors are --------------------------------------------------------------------


@given(scale=st.floats(1.0, 12.0), dtype=st.sampled_from(HALF), turned=st.booleans())
def test_guidance_enlarges_the_errors_of_two_branches(
    scale: float, dtype: torch.dtype, turned: bool
) -> None:
    positive, negative = standard(1, 2, 64), standard(2, 2, 64)
    guided = negative + scale * (positive - negative)
    branches = [negative, positive] if turned else [positive, negative]
    error = rounding_error(dtype, guided, branches)
    assert error is not None
    expected = EPSILON[dtype] * math.hypot(scale, scale - 1)
    assert float(error) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_of_other_guidance_the_error_of_one_branch_is_told(count: int) -> None:
    value = standard(1, 2, 8)
    error = rounding_error(torch.bfloat16, value, [value + place for place in range(count)])
    assert error is not None and float(error) == 2**-7


def test_branches_of_another_shape_tell_no_guidance() -> None:
    value = standard(1, 2, 8)
    error = rounding_error(torch.bfloat16, value, [standard(2, 2, 4), standard(3, 2, 4)])
    assert error is not None and float(error) == 2**-7


def test_what_is_no_sum_of_two_branches_is_not_told_beyond_a_bound() -> None:
    value, branch = standard(1, 2, 8), standard(2, 2, 8)
    error = rounding_error(torch.bfloat16, 1e3 * value, [branch, branch + 1e-3 * value])
    assert error is not None and float(error) == pytest.approx(MOST_GAIN * 2**-7)
    equal = rounding_error(torch.bfloat16, branch, [branch, branch])
    assert equal is not None and float(equal) == 2**-7
