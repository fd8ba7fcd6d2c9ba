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

EULER = SamplerTraits("euler", euler=True, one_eval_per_step=True)
NOISY = SamplerTraits("euler_ancestral", adds_noise=True)
ADAPTIVE = SamplerTraits(
    "dpm_adaptive", forecast=False, computed_in_full="chooses its own noise levels", adaptive=True
)
UNREAD = SamplerTraits("Own", forecast=False, foreign=True)


@pytest.mark.parametrize(
    ("asked", "method"),
    [
        ({}, FORECAST),
        ({"mode": "faithful"}, FAITHFUL),
        ({"predictor": "linear"}, CacheStrategy("prediction", "rate", "linear")),
        ({"cached": "residual"}, CacheStrategy("residual", "rate", "damped")),
        ({"indicator": "profile"}, CacheStrategy("residual", "profile", "damped")),
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


def test_a_whole_prediction_has_no_inside_to_read() -> None:
    config = TeaCacheConfig(cached="prediction", indicator="profile")
    method, notes = resolve_strategy(config, EULER)
    assert method == FORECAST
    assert len(notes) == 1 and "indicator=profile" in notes[0] and "rate is used" in notes[0]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, ""),
        ({"mode": "faithful"}, ""),
        ({"predictor": "linear"}, ""),
        ({"cached": "residual"}, "cannot be extrapolated (it adds noise)"),
        ({"mode": "faithful", "predictor": "damped"}, "cannot be extrapolated (it adds noise)"),
    ],
    ids=repr,
)
def test_no_residual_is_extrapolated_where_noise_is_added(asked: dict[str, str], said: str) -> None:
    config = TeaCacheConfig(**asked)
    chosen, notes = resolve_strategy(config, NOISY)
    assert chosen == (FAITHFUL if said else requested_strategy(config))
    assert bool(notes) == bool(said)
    assert all(said in note and "euler_ancestral" in note for note in notes)


@pytest.mark.parametrize("asked", [{}, {"mode": "faithful"}, {"cached": "residual"}], ids=repr)
@pytest.mark.parametrize(
    ("sampler", "said"),
    [(EULER, ""), (NOISY, ""), (ADAPTIVE, "every step is computed"), (UNREAD, "every step is")],
    ids=["euler", "noisy", "adaptive", "unread"],
)
def test_a_model_without_known_blocks_is_forecast_or_computed(
    asked: dict[str, str], sampler: SamplerTraits, said: str
) -> None:
    profile = load_profiles()["generic"]
    settings = settings_from_config(TeaCacheConfig(**asked), profile, sampler, forecast_only=True)
    assert settings.strategy == FORECAST and settings.every_step == bool(said)
    only = "Forecast only: the faithful mode needs to know the blocks."
    assert (only in settings.notes) == bool(asked)
    assert [said in note for note in settings.notes if note != only] == [True] * bool(said)


@pytest.mark.parametrize("mode", ["forecast", "faithful"])
def test_what_is_computed_in_full_may_be_faithful_where_that_is_asked_for(mode: str) -> None:
    profile = load_profiles()["generic"]
    said = "The sampler made_up evaluates ahead and goes back: every step is computed."
    for adaptive in (False, True):
        ahead = SamplerTraits(
            "made_up",
            forecast=False,
            computed_in_full="evaluates ahead and goes back",
            adaptive=adaptive,
        )
        settings = settings_from_config(TeaCacheConfig(mode=mode), profile, ahead)
        in_full = adaptive or mode == "forecast"
        assert settings.every_step is in_full and (said in settings.notes) is in_full


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
