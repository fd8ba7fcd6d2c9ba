"""The indicator that needs nothing but the run: the error of its own predictions."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from teacache.config import FORCE_COMPUTE, TeaCacheConfig
from teacache.engine.decision import Decision
from teacache.engine.device import DeviceReader
from teacache.engine.forward import PredictionForward
from teacache.engine.indicators import (
    ErrorRate,
)
from teacache.engine.predictors import Predictor, make_predictor
from teacache.engine.regions import Regions
from teacache.engine.run import Run
from teacache.engine.strategy import SamplerTraits, settings_from_config
from teacache.families.comfyui.image import SD3
from teacache.profiles.profile import load_profiles

EULER = SamplerTraits("euler", euler=True, one_eval_per_step=True)


# --- the error rate ------------------------------------------------------------------------------


def rate_after(name: str, series: list[tuple[float, float]]) -> tuple[ErrorRate, Predictor]:
    predictor, rate = make_predictor(name), ErrorRate(DeviceReader())
    for sigma, value in series:
        tensor = torch.tensor([[value]])
        rate.measure(predictor, sigma, tensor)
        predictor.observe(sigma, tensor)
    return rate, predictor


def test_nothing_is_known_before_a_prediction_could_be_compared() -> None:
    for name, count in (("reuse", 1), ("linear", 2)):
        series = [(1.0 - 0.1 * i, 1.0 + i * i) for i in range(count + 1)]
        rate, predictor = rate_after(name, series[:count])
        assert rate.distance(predictor, 0.5, 1.0) is None
        rate, predictor = rate_after(name, series)
        assert rate.distance(predictor, 0.5, 1.0) is not None


@given(curvature=st.floats(0.1, 3.0), ahead=st.floats(0.02, 0.3), share=st.floats(0.2, 2.0))
def test_the_error_of_a_line_through_a_parabola_is_foretold_exactly(
    curvature: float, ahead: float, share: float
) -> None:
    def value(sigma: float) -> float:
        return 5.0 + curvature * sigma * sigma

    rate, predictor = rate_after("linear", [(s, value(s)) for s in (0.9, 0.8, 0.7)])
    sigma = 0.7 - ahead
    told = rate.distance(predictor, sigma, share)
    missed = abs(value(sigma) - float(predictor.predict(sigma)))
    seen_on = 2 * value(0.8) - value(0.9)  # what the relative error was measured on
    assert told == pytest.approx(missed / seen_on * share, rel=2e-2, abs=1e-4)


def test_a_line_has_no_error_and_is_not_followed_out_of_reach() -> None:
    rate, predictor = rate_after("linear", [(0.9, 1.0), (0.8, 2.0), (0.7, 3.0)])
    assert rate.distance(predictor, 0.6, 1.0) == pytest.approx(0.0, abs=1e-5)
    assert not rate.beyond_horizon(predictor, 0.31)
    assert rate.beyond_horizon(predictor, 0.29)


def test_what_is_not_finite_is_not_trusted() -> None:
    rate, predictor = rate_after("reuse", [(0.9, 0.0), (0.8, 1.0)])
    assert rate.distance(predictor, 0.7, 1.0) == FORCE_COMPUTE


def run_of(sigmas: list[float], **config: Any) -> Run:
    choice = settings_from_config(
        TeaCacheConfig(**config), load_profiles()["sd3-uncalibrated"], EULER
    )
    return Run(choice, SD3, EULER, sigmas, host="test")


def integrate(run: Run, sigmas: list[float], derivative: Any) -> tuple[torch.Tensor, Run]:
    """Euler's method with the run's forecasts, on a derivative that depends on sigma alone."""
    x = torch.zeros(1, 3, dtype=torch.float64)
    for sigma, following in pairwise(sigmas):
        run.begin_evaluation(sigma, torch.device("cpu"))
        decision: Decision = run.decide("prediction")
        call = PredictionForward(run, decision, "prediction", "layout")
        exact = derivative(sigma)
        value = call.predict(exact) if call.skipping else call.observe(exact)
        x = x + (following - sigma) * value
        run.end_evaluation()
    run.finish("done")
    return x, run


@pytest.mark.parametrize("predictor", ["reuse", "damped"])
@pytest.mark.parametrize("rising", [False, True])
def test_most_of_what_was_missed_of_a_line_is_made_good(
    predictor: str, rising: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 24
    sigmas = [(i / steps) ** 1.3 for i in range(steps + 1)]
    sigmas = sigmas if rising else sigmas[::-1]
    slope = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)

    def derivative(sigma: float) -> torch.Tensor:
        return 3.0 + slope * sigma

    def missed() -> float:
        run = run_of(sigmas, rel_l1_thresh=0.5, predictor=predictor)
        got, run = integrate(run, sigmas, derivative)
        assert run.report.skipped >= 8
        return float((got - exact).abs().max())

    exact = sum((b - a) * derivative(a) for a, b in pairwise(sigmas))
    corrected = missed()
    monkeypatch.setattr("teacache.engine.forward.correction_gain", torch.zeros_like)
    assert corrected < 0.15 * missed()


def rate_of(name: str, series: list[tuple[float, float]]) -> tuple[ErrorRate, Predictor]:
    """As `rate_after`, with what was measured read from the device."""
    rate, predictor = rate_after(name, series)
    rate._reader.read()
    return rate, predictor


def test_the_error_grows_with_the_distance_to_the_cached_levels() -> None:
    """Values 1 and 2: the error of reuse was 1/2 of what it predicted, over a gap of 0.1."""
    rate, predictor = rate_of("reuse", [(0.9, 1.0), (0.8, 1.5)])
    assert rate.distance(predictor, 0.7, 1.0) == pytest.approx(0.5)
    assert rate.distance(predictor, 0.6, 1.0) == pytest.approx(1.0)
    assert rate.distance(predictor, 0.7, 0.5) == pytest.approx(0.25)


def test_the_error_of_a_line_grows_with_both_distances() -> None:
    rate, predictor = rate_of("linear", [(0.9, 1.0), (0.8, 2.0), (0.7, 3.6)])
    seen = 0.6 / 3.0
    assert rate.distance(predictor, 0.6, 1.0) == pytest.approx(seen)
    assert rate.distance(predictor, 0.5, 1.0) == pytest.approx(seen * (0.2 * 0.3) / (0.1 * 0.2))


def test_the_newest_error_counts() -> None:
    rate, predictor = rate_of("reuse", [(0.9, 1.0), (0.8, 1.5), (0.7, 1.5)])
    assert rate.distance(predictor, 0.6, 1.0) == pytest.approx(0.0)


def test_a_level_that_is_cached_has_no_expected_error_and_measures_none() -> None:
    rate, predictor = rate_of("reuse", [(0.9, 1.0), (0.8, 1.5)])
    assert rate.distance(predictor, 0.8, 1.0) is None
    rate.measure(predictor, 0.8, torch.tensor([[9.0]]))
    rate._reader.read()
    assert rate.distance(predictor, 0.7, 1.0) == pytest.approx(0.5), "not measured at its own level"
    line, two = rate_of("linear", [(0.9, 1.0), (0.8, 2.0), (0.7, 3.6)])
    assert line.distance(two, 0.8, 1.0) is None and line.distance(two, 0.9, 1.0) is not None


def test_a_line_is_not_compared_at_a_level_that_it_goes_through() -> None:
    rate, predictor = rate_of("linear", [(0.9, 1.0), (0.8, 2.0), (0.7, 3.6)])
    for sigma in (0.8, 0.7):
        rate.measure(predictor, sigma, torch.tensor([[9.0]]))
        rate._reader.read()
    assert rate.distance(predictor, 0.6, 1.0) == pytest.approx(0.6 / 3.0)


def test_what_is_measured_is_read_when_it_is_first_needed() -> None:
    rate, predictor = rate_after("reuse", [(0.9, 1.0), (0.8, 1.5)])
    assert rate._reader.count == 0
    assert rate.distance(predictor, 0.7, 1.0) == pytest.approx(0.5)
    assert rate.distance(predictor, 0.6, 1.0) == pytest.approx(1.0)
    assert rate._reader.count == 1


def test_the_row_that_is_missed_most_counts() -> None:
    predictor, rate = make_predictor("reuse"), ErrorRate(DeviceReader())
    predictor.observe(0.9, torch.tensor([[1.0], [1.0], [1.0]]))
    rate.measure(predictor, 0.8, torch.tensor([[1.1], [1.7], [1.2]]))
    predictor.observe(0.8, torch.ones(3, 1))
    assert rate.distance(predictor, 0.7, 1.0) == pytest.approx(0.7)


def test_parts_that_are_packed_are_measured_apart() -> None:
    predictor, rate = make_predictor("reuse"), ErrorRate(DeviceReader())
    predictor.observe(0.9, torch.tensor([[9.0, 1.0]]))
    rate.measure(predictor, 0.8, torch.tensor([[9.0, 1.5]]), Regions((1, 1)))
    predictor.observe(0.8, torch.tensor([[9.0, 1.5]]))
    assert rate.distance(predictor, 0.7, 1.0) == pytest.approx(0.5)


def test_a_huge_error_is_a_distance_that_always_computes() -> None:
    rate, predictor = rate_of("reuse", [(0.9, 1e-6), (0.8, 1.0)])
    assert rate.distance(predictor, 0.7, 1.0) == FORCE_COMPUTE


def test_the_horizon_is_four_gaps_in_either_direction() -> None:
    _, falling = rate_after("linear", [(0.9, 1.0), (0.8, 2.0)])
    rate, rising = rate_after("linear", [(0.1, 1.0), (0.2, 2.0)])
    assert not rate.beyond_horizon(falling, 0.41) and rate.beyond_horizon(falling, 0.39)
    assert not rate.beyond_horizon(rising, 0.59) and rate.beyond_horizon(rising, 0.61)
    exact, at_limit = rate_after("linear", [(1.0, 1.0), (0.875, 2.0)])
    assert not exact.beyond_horizon(at_limit, 0.375)
    _, newest = rate_after("linear", [(1.0, 1.0), (0.5, 2.0), (0.4, 3.0), (0.3, 4.0)])
    assert exact.beyond_horizon(newest, -0.2) and not exact.beyond_horizon(newest, -0.05)
    single, one = rate_after("linear", [(0.9, 1.0)])
    assert single.beyond_horizon(one, 0.1) is False
    assert single.beyond_horizon(make_predictor("reuse"), 0.1) is False


def test_the_horizon_is_measured_by_the_two_newest_values() -> None:
    series = [(0.9, 1.0), (0.8, 2.0), (0.7, 3.0), (0.65, 4.0)]
    rate, predictor = rate_of("linear", series)
    assert not rate.beyond_horizon(predictor, 0.46)
    assert rate.beyond_horizon(predictor, 0.44)
