"""Which method a run uses: what is asked for, and the nearest safe one."""

from __future__ import annotations

import pytest

from teacache.config import TeaCacheConfig
from teacache.engine.strategy import (
    FAITHFUL,
    FORECAST,
    CacheStrategy,
    SamplerTraits,
    requested_strategy,
    resolve_strategy,
    settings_from_config,
)
from teacache.errors import ConfigError
from teacache.profiles.profile import load_profiles

EULER = SamplerTraits("euler", deterministic=True, euler=True, one_eval_per_step=True)
NOISY = SamplerTraits("euler_ancestral", deterministic=False)


@pytest.mark.parametrize(
    ("asked", "method"),
    [
        ({}, FORECAST),
        ({"mode": "faithful"}, FAITHFUL),
        ({"predictor": "blend"}, CacheStrategy("prediction", "rate", "blend")),
        ({"cached": "residual"}, CacheStrategy("residual", "rate", "damped")),
        ({"indicator": "profile"}, CacheStrategy("residual", "profile", "damped")),
        ({"indicator": "first_block"}, CacheStrategy("residual", "first_block", "damped")),
        ({"indicator": "spectral"}, CacheStrategy("prediction", "spectral", "damped")),
        (
            {"mode": "faithful", "predictor": "linear"},
            CacheStrategy("residual", "profile", "linear"),
        ),
        ({"mode": "faithful", "indicator": "rate"}, CacheStrategy("residual", "rate", "reuse")),
    ],
)
def test_named_parts_replace_the_modes_own(asked: dict[str, str], method: CacheStrategy) -> None:
    config = TeaCacheConfig(**asked)
    assert requested_strategy(config) == method
    assert resolve_strategy(config, EULER) == (method, [])


@pytest.mark.parametrize("indicator", ["profile", "first_block"])
def test_a_whole_prediction_has_no_inside_to_read(indicator: str) -> None:
    config = TeaCacheConfig(cached="prediction", indicator=indicator)
    method, notes = resolve_strategy(config, EULER)
    assert method == FORECAST
    assert len(notes) == 1 and indicator in notes[0] and "rate is used" in notes[0]


@pytest.mark.parametrize(
    ("asked", "method"),
    [
        ({}, FAITHFUL),
        ({"mode": "faithful"}, FAITHFUL),
        ({"predictor": "blend"}, FAITHFUL),
        ({"cached": "residual"}, FAITHFUL),
        ({"indicator": "spectral"}, CacheStrategy("residual", "spectral", "reuse")),
        ({"indicator": "first_block"}, CacheStrategy("residual", "first_block", "reuse")),
        ({"cached": "prediction", "indicator": "profile"}, FAITHFUL),
    ],
)
def test_nothing_is_extrapolated_where_noise_is_added(
    asked: dict[str, str], method: CacheStrategy
) -> None:
    config = TeaCacheConfig(**asked)
    chosen, notes = resolve_strategy(config, NOISY)
    assert chosen == method
    assert (not notes) == (requested_strategy(config) == method)
    assert all("euler_ancestral" in note for note in notes[-1:])


def test_coefficients_of_any_degree_select_the_faithful_mode() -> None:
    for values in ([2.0, 0.0], [1, 2, 3], [0.1] * 7):
        config = TeaCacheConfig.from_mapping({"coefficients": values})
        assert config.coefficients == tuple(map(float, values))
        assert requested_strategy(config) == FAITHFUL and not config.untouched
    assert requested_strategy(TeaCacheConfig()) == FORECAST
    with pytest.raises(ConfigError, match="indicator must be auto or profile, not 'rate'"):
        TeaCacheConfig(coefficients=(1.0, 0.0), indicator="rate")


def test_coefficients_of_the_users_own_replace_the_profiles() -> None:
    profile = load_profiles()["flux1-dev"]
    settings = settings_from_config(TeaCacheConfig(coefficients=(3.0, 0.5)), profile, EULER)
    assert settings.profile.distance(0.1) == pytest.approx(0.8)
    assert settings.profile.name == "coefficients of your own" and settings.profile.r2 is None
    assert settings_from_config(TeaCacheConfig(), profile, EULER).profile == profile
