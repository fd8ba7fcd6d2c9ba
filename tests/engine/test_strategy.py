"""Which method a run uses: what is asked for, and the nearest safe one."""

from __future__ import annotations

import pytest

from teacache.config import TeaCacheConfig
from teacache.engine.strategy import FAITHFUL, FORECAST, Method, Solver, asked_method, choose_method

EULER = Solver("euler", smooth=True, euler=True, single=True)
NOISY = Solver("euler_ancestral", smooth=False)


@pytest.mark.parametrize(
    ("asked", "method"),
    [
        ({}, FORECAST),
        ({"mode": "faithful"}, FAITHFUL),
        ({"predictor": "blend"}, Method("prediction", "rate", "blend")),
        ({"cached": "residual"}, Method("residual", "rate", "damped")),
        ({"indicator": "profile"}, Method("residual", "profile", "damped")),
        ({"indicator": "first_block"}, Method("residual", "first_block", "damped")),
        ({"indicator": "spectral"}, Method("prediction", "spectral", "damped")),
        ({"mode": "faithful", "predictor": "linear"}, Method("residual", "profile", "linear")),
        ({"mode": "faithful", "indicator": "rate"}, Method("residual", "rate", "reuse")),
    ],
)
def test_named_parts_replace_the_modes_own(asked: dict[str, str], method: Method) -> None:
    config = TeaCacheConfig(**asked)
    assert asked_method(config) == method
    assert choose_method(config, EULER) == (method, [])


@pytest.mark.parametrize("indicator", ["profile", "first_block"])
def test_a_whole_prediction_has_no_inside_to_read(indicator: str) -> None:
    config = TeaCacheConfig(cached="prediction", indicator=indicator)
    method, notes = choose_method(config, EULER)
    assert method == FORECAST
    assert len(notes) == 1 and indicator in notes[0] and "rate is used" in notes[0]


@pytest.mark.parametrize(
    ("asked", "method"),
    [
        ({}, FAITHFUL),
        ({"mode": "faithful"}, FAITHFUL),
        ({"predictor": "blend"}, FAITHFUL),
        ({"cached": "residual"}, FAITHFUL),
        ({"indicator": "spectral"}, Method("residual", "spectral", "reuse")),
        ({"indicator": "first_block"}, Method("residual", "first_block", "reuse")),
        ({"cached": "prediction", "indicator": "profile"}, FAITHFUL),
    ],
)
def test_nothing_is_extrapolated_where_noise_is_added(
    asked: dict[str, str], method: Method
) -> None:
    config = TeaCacheConfig(**asked)
    chosen, notes = choose_method(config, NOISY)
    assert chosen == method
    assert (not notes) == (asked_method(config) == method)
    assert all("euler_ancestral" in note for note in notes[-1:])
