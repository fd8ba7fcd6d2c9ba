"""Predictors: what stands in for a value, as arithmetic on the observed ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from teacache.config import PREDICTORS
from teacache.engine.predictors import (
    Linear,
    Predictor,
    combine,
    interpolation_weights,
    make_predictor,
)
from teacache.errors import ConfigError

NAMES = PREDICTORS[1:]
LEVELS = st.lists(st.floats(0.02, 0.98), min_size=2, max_size=6, unique_by=lambda s: round(s, 2))


def observed(name: str, series: list[tuple[float, torch.Tensor]]) -> Predictor:
    predictor = make_predictor(name)
    for sigma, value in series:
        predictor.observe(sigma, value)
    return predictor


@pytest.mark.parametrize("name", NAMES)
@given(levels=LEVELS, sigma=st.floats(-0.5, 1.5), rising=st.booleans())
def test_a_constant_is_continued_exactly(
    name: str, levels: list[float], sigma: float, rising: bool
) -> None:
    value = torch.tensor([3.7, -1.25e3, 0.0, 1e-7])
    series = [(level, value.clone()) for level in sorted(levels, reverse=not rising)]
    assert torch.equal(observed(name, series).predict(sigma), value)


@given(levels=LEVELS, ahead=st.floats(0.01, 0.3), rising=st.booleans())
def test_a_line_is_continued_exactly_in_both_directions(
    levels: list[float], ahead: float, rising: bool
) -> None:
    offset = torch.tensor([0.3, -2.0], dtype=torch.float64)
    slope = torch.tensor([5.0, 0.7], dtype=torch.float64)
    ordered = sorted(levels, reverse=not rising)
    predictor = observed("linear", [(level, offset + slope * level) for level in ordered])
    sigma = ordered[-1] + (ahead if rising else -ahead)
    torch.testing.assert_close(predictor.predict(sigma), offset + slope * sigma, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@given(levels=LEVELS, sigma=st.floats(0, 1))
def test_weights_add_up_to_one(name: str, levels: list[float], sigma: float) -> None:
    series = [(level, torch.zeros(1)) for level in sorted(levels)]
    weights = observed(name, series).weights(sigma)
    assert sum(weights) == pytest.approx(1.0, abs=1e-6)


def test_each_holds_no_more_than_it_needs() -> None:
    series = [(1 - 0.1 * i, torch.full((2,), float(i))) for i in range(8)]
    for name, count in (("reuse", 1), ("linear", 2), ("damped", 2)):
        predictor = observed(name, series)
        assert [float(value[0]) for value in predictor.values] == list(range(8 - count, 8))


def test_reuse_gives_what_it_holds_without_a_copy() -> None:
    value = torch.ones(3)
    assert observed("reuse", [(0.5, value)]).predict(0.1) is value


def test_another_value_at_the_newest_level_takes_its_place() -> None:
    predictor = Linear()
    for sigma, value in ((0.9, 1.0), (0.8, 2.0), (0.8, 3.0)):
        predictor.observe(sigma, torch.tensor([value]))
    assert predictor.sigmas == [0.9, 0.8]
    assert float(predictor.predict(0.7)) == pytest.approx(5.0)


def test_what_lies_behind_a_turn_is_forgotten() -> None:
    predictor = Linear()
    for sigma in (0.9, 0.8, 0.85):
        predictor.observe(sigma, torch.tensor([sigma]))
    assert predictor.sigmas == [0.85]
    predictor.observe(0.95, torch.tensor([0.95]))
    assert float(predictor.predict(1.0)) == pytest.approx(1.0)


def test_combining_in_half_precision_is_as_exact_as_its_numbers() -> None:
    old, new = torch.tensor([1.0, 1000.0]).bfloat16(), torch.tensor([1.0078125, 1008.0]).bfloat16()
    got = combine([old, new], [-1.0, 2.0])
    assert torch.equal(got, (2 * new.float() - old.float()).bfloat16())


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="reuse, linear, damped, not 'oracle'"):
        make_predictor("oracle")


def test_a_damped_line_is_followed_as_far_as_lines_were_right() -> None:
    """A line's end that was reached draws the part to 1, values that stay draw it to 0."""
    straight, still = make_predictor("damped"), make_predictor("damped")
    for place in range(8):
        sigma = 0.9 - 0.1 * place
        for predictor, value in ((straight, 3 * sigma), (still, 0.0 if place > 1 else 3 * sigma)):
            seen = torch.full((1, 4), value)
            deferred_update = predictor.deferred_update(sigma, seen)
            assert (deferred_update is None) == (place < 2)
            if deferred_update is not None:
                scalar, learn = deferred_update
                learn(float(scalar))
            predictor.observe(sigma, seen)
    ahead = straight.predict(0.1)
    torch.testing.assert_close(ahead, torch.full((1, 4), 0.3), rtol=0, atol=0.01)
    assert straight.fraction > 0.98
    assert 0.0 <= still.fraction <= 1.0


def test_what_a_damped_line_learns_is_the_nearest_part_of_the_way() -> None:
    predictor = make_predictor("damped")
    predictor.observe(0.9, torch.tensor([[0.0, 0.0]]))
    predictor.observe(0.8, torch.tensor([[1.0, 0.0]]))
    deferred_update = predictor.deferred_update(
        0.7, torch.tensor([[1.25, 7.0]])
    )  # the line ends at (2, 0)
    assert deferred_update is not None
    scalar, learn = deferred_update
    assert float(scalar) == pytest.approx(0.25)
    learn(float(scalar))
    assert predictor.fraction == pytest.approx((0.5 + 0.25) / 2)
    learn(float("nan"))
    assert predictor.fraction == pytest.approx((0.5 + 0.25) / 2)


@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4), st.floats(0.01, 0.6))
def test_a_constant_series_stays_whatever_part_is_followed(values: list[float], to: float) -> None:
    constant = torch.tensor([values])
    predictor = make_predictor("damped")
    for sigma in (0.9, 0.8, 0.7):
        predictor.observe(sigma, constant)
    assert torch.equal(predictor.predict(to), constant)


# --- weights and sums ----------------------------------------------------------------------------


def test_interpolation_passes_through_its_nodes() -> None:
    nodes = [0.9, 0.7, 0.4]
    for place, node in enumerate(nodes):
        assert interpolation_weights(nodes, node) == [float(place == other) for other in range(3)]
    weights = interpolation_weights(nodes, 0.2)
    parabola = [3 * node**2 - node for node in nodes]
    value = sum(weight * each for weight, each in zip(weights, parabola, strict=True))
    assert value == pytest.approx(3 * 0.2**2 - 0.2)
    assert interpolation_weights([0.5], 0.1) == [1.0]


def test_a_weighted_sum_is_that_of_every_value() -> None:
    values = [torch.tensor([1.0, 5.0]), torch.tensor([2.0, -1.0]), torch.tensor([4.0, 3.0])]
    given = [value.clone() for value in values]
    torch.testing.assert_close(combine(values, [0.25, -0.5, 1.25]), torch.tensor([4.25, 5.5]))
    torch.testing.assert_close(combine(values, [0.0, 0.5, 0.5]), torch.tensor([3.0, 1.0]))
    assert combine(values, [0.0, 0.0, 1.0]) is values[-1]
    assert all(map(torch.equal, values, given)), "the values themselves stay"


# --- what is cached ------------------------------------------------------------------------------


def test_a_first_value_is_cached_whatever_its_level() -> None:
    for name in NAMES:
        predictor = observed(name, [(0.5, torch.ones(1))])
        assert predictor.sigmas == [0.5] and torch.equal(predictor.predict(0.1), torch.ones(1))


def test_a_turn_after_one_value_forgets_nothing() -> None:
    predictor = observed("linear", [(0.5, torch.ones(1)), (0.7, torch.zeros(1))])
    assert predictor.sigmas == [0.5, 0.7]
    predictor.observe(0.9, torch.zeros(1))
    assert predictor.sigmas == [0.7, 0.9], "a rising level is no turn"


def test_reuse_gives_the_newest_value_its_whole_weight() -> None:
    assert observed("reuse", [(0.9, torch.zeros(1)), (0.8, torch.ones(1))]).weights(0.3) == [1.0]


def test_only_the_damped_line_learns() -> None:
    series = [(0.9, torch.zeros(1, 2)), (0.8, torch.ones(1, 2))]
    for name in ("reuse", "linear"):
        assert observed(name, series).deferred_update(0.7, torch.ones(1, 2)) is None
    assert observed("damped", series).deferred_update(0.7, torch.ones(1, 2)) is not None


# --- the damped line -----------------------------------------------------------------------------


def damped(fraction: float | None = None) -> Any:
    """Values 0 and 1 at 0.9 and 0.8: at 0.7 the line has reached 2."""
    predictor: Any = observed("damped", [(0.9, torch.zeros(1, 2)), (0.8, torch.ones(1, 2))])
    if fraction is not None:
        predictor.fraction = fraction
    return predictor


def test_a_damped_line_begins_with_half_of_the_way() -> None:
    assert damped().fraction == 0.5
    torch.testing.assert_close(damped().predict(0.7), torch.full((1, 2), 1.5))
    torch.testing.assert_close(damped(0.25).predict(0.6), torch.full((1, 2), 1.5))
    assert damped(0.25).weights(0.7) == pytest.approx([-0.25, 1.25])


@pytest.mark.parametrize(("reached", "fraction"), [(9.0, 1.0), (2.0, 1.0), (1.5, 0.5), (-3.0, 0.0)])
def test_what_a_damped_line_learns_lies_between_reuse_and_the_line(
    reached: float, fraction: float
) -> None:
    predictor = damped(0.3)
    value, learn = predictor.deferred_update(0.7, torch.full((1, 2), reached))
    learn(float(value))
    assert predictor.fraction == pytest.approx((0.3 + fraction) / 2)


def test_the_line_that_is_learned_from_is_the_whole_one() -> None:
    """Whatever part of it is followed at the moment."""
    value, _ = damped(0.1).deferred_update(0.7, torch.full((1, 2), 1.5))
    assert float(value) == pytest.approx(0.5)


def test_a_level_that_is_cached_teaches_nothing() -> None:
    for sigma in (0.9, 0.8):
        assert damped().deferred_update(sigma, torch.ones(1, 2)) is None
    single = observed("damped", [(0.9, torch.zeros(1, 2))])
    assert single.deferred_update(0.8, torch.ones(1, 2)) is None


def test_a_line_that_goes_nowhere_teaches_that_reuse_is_right() -> None:
    flat: Any = observed("damped", [(0.9, torch.ones(1, 2)), (0.8, torch.ones(1, 2))])
    value, learn = flat.deferred_update(0.7, torch.full((1, 2), 5.0))
    learn(float(value))
    assert flat.fraction == 0.25


def test_half_precision_is_learned_from_in_full() -> None:
    """Sums of many products, which half precision could not hold."""
    predictor: Any = make_predictor("damped")
    for sigma, level in ((0.9, 0.0), (0.8, 100.0)):
        predictor.observe(sigma, torch.full((1, 4096), level, dtype=torch.float16))
    value, _ = predictor.deferred_update(0.7, torch.full((1, 4096), 150.0, dtype=torch.float16))
    assert float(value) == pytest.approx(0.5)
