"""The config refuses what is unusable, and says what is allowed."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacache.config import MAX_THRESHOLD, TeaCacheConfig
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
