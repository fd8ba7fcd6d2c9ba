"""Predictors: what stands in for a value, as arithmetic on the observed ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from teacache.config import PREDICTORS
from teacache.engine.predictors import Blend, Linear, Predictor, Reuse, combine, make_predictor
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


@pytest.mark.parametrize("name", ["linear", "blend"])
@given(levels=LEVELS, ahead=st.floats(0.01, 0.3), rising=st.booleans())
def test_a_line_is_continued_exactly_in_both_directions(
    name: str, levels: list[float], ahead: float, rising: bool
) -> None:
    offset = torch.tensor([0.3, -2.0], dtype=torch.float64)
    slope = torch.tensor([5.0, 0.7], dtype=torch.float64)
    ordered = sorted(levels, reverse=not rising)
    predictor = observed(name, [(level, offset + slope * level) for level in ordered])
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
    for name, count in (("reuse", 1), ("linear", 2), ("blend", 4)):
        predictor = observed(name, series)
        assert [float(value[0]) for value in predictor.values] == list(range(8 - count, 8))


def test_reuse_gives_what_it_holds_without_a_copy() -> None:
    value = torch.ones(3)
    assert observed("reuse", [(0.5, value)]).predict(0.1) is value


def test_blend_is_the_line_until_four_observations_exist() -> None:
    series = [(0.9, 1.0), (0.8, 4.0), (0.7, 2.0), (0.6, 8.0)]
    values = [(sigma, torch.tensor([value])) for sigma, value in series]
    for count in (2, 3):
        line, blend = observed("linear", values[:count]), observed("blend", values[:count])
        assert torch.allclose(line.predict(0.5), blend.predict(0.5))
    assert not torch.allclose(
        observed("linear", values).predict(0.5), observed("blend", values).predict(0.5)
    )


def test_blend_is_half_of_a_ridge_fit_to_what_the_line_misses() -> None:
    """Against numpy's own least squares on the padded system."""
    sigmas, values = [0.9, 0.75, 0.6, 0.5], np.array([1.0, 0.2, 2.0, 1.4])
    predictor = observed(
        "blend",
        [(s, torch.tensor([v], dtype=torch.float64)) for s, v in zip(sigmas, values, strict=True)],
    )
    line = np.polynomial.Polynomial.fit(sigmas[-2:], values[-2:], 1)
    scale = [2 * (s - 0.5) / 0.4 - 1 for s in [*sigmas, 0.4]]
    basis = np.polynomial.chebyshev.chebvander(np.array(scale), 3)
    padded = np.vstack([basis[:-1], np.sqrt(0.1) * np.eye(4)])
    missed = np.concatenate([values - line(np.array(sigmas)), np.zeros(4)])
    fit = np.linalg.lstsq(padded, missed, rcond=None)[0]
    expected = line(0.4) + 0.5 * (basis[-1] @ fit)
    assert float(predictor.predict(0.4)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", [Linear, Blend])
def test_another_value_at_the_newest_level_takes_its_place(kind: type[Predictor]) -> None:
    predictor = kind()
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
    with pytest.raises(ConfigError, match="reuse, linear, damped, blend, not 'oracle'"):
        make_predictor("oracle")


def test_orders_are_the_values_that_the_leading_term_passes_through() -> None:
    assert [kind.order for kind in (Reuse, Linear, Blend)] == [1, 2, 2]


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
