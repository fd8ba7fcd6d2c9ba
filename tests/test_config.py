"""The config refuses what is unusable, and says what is allowed."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacache.config import (
    FORMER_SETTINGS,
    FORMER_VALUES,
    MAX_THRESHOLD,
    TeaCacheConfig,
    replace_former_values,
)
from teacache.errors import ConfigError

BAD: list[tuple[dict[str, Any], str]] = [
    ({"rel_l1_thresh": math.nan}, "rel_l1_thresh must be a number from 0 to 100, not nan"),
    ({"rel_l1_thresh": math.inf}, "rel_l1_thresh"),
    ({"rel_l1_thresh": -0.1}, "rel_l1_thresh must be a number from 0 to 100, not -0.1"),
    ({"rel_l1_thresh": "0.2"}, "rel_l1_thresh must be a number from 0 to 100, not str '0.2'"),
    ({"rel_l1_thresh": True}, "rel_l1_thresh"),
    ({"start_percent": 1.5}, "start_percent must be a number from 0 to 1, not 1.5"),
    ({"end_percent": math.nan}, "end_percent"),
    ({"start_percent": 0.5, "end_percent": 0.5}, "start_percent must be below end_percent"),
    ({"max_skip": -1}, "max_skip must be a whole number from 0, not -1"),
    ({"max_skip": 1.5}, "max_skip"),
    ({"max_skip": True}, "max_skip"),
    ({"cache_device": "gpu"}, "cache_device must be one of auto, device, cpu, not 'gpu'"),
    ({"profile": ""}, "profile"),
    ({"profile": None}, "profile"),
    ({"indicator": "magic"}, "indicator must be one of auto"),
    ({"predictor": "oracle"}, "predictor must be one of auto, reuse"),
]


@pytest.mark.parametrize(("values", "message"), BAD)
def test_refuses(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TeaCacheConfig(**values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_key_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match="unknown setting 'rel_l1_tresh'; did you mean 'rel_l1_th"
    ):
        TeaCacheConfig.from_mapping({"rel_l1_tresh": 0.2})


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("indicator", "spectral", "auto, or one of profile, rate"),
        ("indicator", "first_block", "auto, or one of profile, rate"),
        ("predictor", "blend", "auto, or one of reuse, linear, damped"),
    ],
)
def test_a_removed_value_is_refused_with_what_to_use(name: str, value: str, allowed: str) -> None:
    assert value in FORMER_VALUES[name]
    for make in (TeaCacheConfig, lambda **values: TeaCacheConfig.from_mapping(values)):
        with pytest.raises(ConfigError) as caught:
            make(**{name: value})
        message = str(caught.value)
        assert message.startswith(f"{name}={value} was removed") and "\n" not in message
        assert f"use {name}={allowed}" in message


def test_a_removed_setting_is_unknown_and_said_to_be_removed() -> None:
    assert FORMER_SETTINGS == ("token_stride",)
    told = "^unknown setting 'token_stride', which was removed: leave it out. Known: rel_l1_thresh"
    with pytest.raises(ConfigError, match=told) as caught:
        TeaCacheConfig.from_mapping({"rel_l1_thresh": 0.2, "token_stride": 4})
    assert str(caught.value).count("token_stride") == 1, "it is not among the known ones"


def test_the_values_of_a_saved_graph_are_replaced_and_named() -> None:
    saved = {"mode": "faithful", "indicator": "first_block", "predictor": "blend", "max_skip": 2}
    settings, notes = replace_former_values(saved)
    assert settings == {**saved, "indicator": "auto", "predictor": "auto"}
    assert saved["indicator"] == "first_block", "what is given stays"
    assert notes == [
        "indicator=first_block was removed: indicator=auto is used in its place.",
        "predictor=blend was removed: predictor=auto is used in its place.",
    ]
    today = {"indicator": "rate", "predictor": "linear"}
    assert replace_former_values(today) == (today, [])
    assert replace_former_values({"indicator": ["5", 0]}) == ({"indicator": ["5", 0]}, [])


@given(
    threshold=st.one_of(st.none(), st.floats(0, MAX_THRESHOLD)),
    start=st.floats(0, 1),
    end=st.floats(0, 1),
    max_skip=st.integers(0, 50),
)
def test_accepts_exactly_what_it_allows(
    threshold: float | None, start: float, end: float, max_skip: int
) -> None:
    values = dict(rel_l1_thresh=threshold, start_percent=start, end_percent=end, max_skip=max_skip)
    if start < end:
        assert TeaCacheConfig.from_mapping(values) == TeaCacheConfig(**values)
    else:
        with pytest.raises(ConfigError):
            TeaCacheConfig(**values)
