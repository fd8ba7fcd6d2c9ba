"""The polynomial from indicator to residual: exact where it can be, refused where it is poor."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacache.calibration.fit import LEAST_POINTS, LEAST_R2, fit_polynomial, thresholds_for
from teacache.calibration.recorder import Point


def points(x: np.ndarray, y: np.ndarray) -> list[Point]:
    return [
        Point(step, 0, float(a), float(b), 1.0)
        for step, (a, b) in enumerate(zip(x, y, strict=True), 1)
    ]


@given(st.lists(st.floats(-3, 3), min_size=5, max_size=5))
def test_a_polynomial_is_found_again(coefficients: list[float]) -> None:
    x = np.linspace(0.02, 0.4, 60)
    y = np.polyval(coefficients, x)
    fit = fit_polynomial(points(x, y))
    if np.ptp(y) < 1e-6:
        return
    assert not fit.refused and fit.r2 == pytest.approx(1.0)
    assert fit.x_range == (pytest.approx(0.02), pytest.approx(0.4)) and fit.points == 60
    np.testing.assert_allclose(np.polyval(fit.coefficients, x), y, atol=1e-6)


def test_noise_is_refused_and_says_how_poor_it_is() -> None:
    generator = np.random.default_rng(0)
    fit = fit_polynomial(points(generator.random(300), generator.random(300)))
    assert fit.r2 < LEAST_R2 and fit.refused == f"R² {fit.r2:.2f} is below {LEAST_R2:g}"


@pytest.mark.parametrize(
    ("x", "y", "told"),
    [
        (np.linspace(0, 1, LEAST_POINTS - 1), np.linspace(0, 1, LEAST_POINTS - 1), "too few"),
        (np.full(40, 0.1), np.linspace(0, 1, 40), "does not change"),
        (np.linspace(0, 1, 40), np.full(40, 0.3), "does not change"),
        (np.full(40, np.nan), np.linspace(0, 1, 40), "too few"),
    ],
)
def test_what_cannot_be_fitted_is_refused(x: np.ndarray, y: np.ndarray, told: str) -> None:
    fit = fit_polynomial(points(x, y))
    assert told in fit.refused and fit.coefficients == ()


def test_a_threshold_gives_the_speed_that_it_is_told_for() -> None:
    """By TeaCache's rule on the same distances."""
    distances = [0.1 + 0.05 * math.sin(step) for step in range(1, 50)]
    for wanted, threshold in thresholds_for([distances], 50).items():
        computed, total = 1, 0.0
        for step, distance in enumerate(distances, 1):
            total += distance
            if step == 49 or total >= threshold:
                computed, total = computed + 1, 0.0
        assert computed == pytest.approx(50 / wanted, abs=2)
