"""Steps are measured half by noise level, half by the ratio of signal to noise."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacache.engine.policy import UNSURE
from teacache.schedule import Pace


@given(st.integers(4, 60), st.floats(0.5, 8.0))
def test_an_average_step_is_one(steps: int, shift: float) -> None:
    times = [1 - k / steps for k in range(steps + 1)]
    sigmas = [shift * t / (1 + (shift - 1) * t) for t in times]
    pace = Pace(sigmas)
    inner = [pace.share(a, b) for a, b in pairwise(sigmas)][1:-1]
    noise = [abs(b - a) * steps for a, b in pairwise(sigmas)][1:-1]
    by_noise = sum(noise) / len(noise)
    assert sum(inner) / len(inner) == pytest.approx((by_noise + 1) / 2)


def test_the_noisiest_steps_count_more_than_their_length() -> None:
    sigmas = [1 - k / 50 for k in range(51)]
    pace = Pace(sigmas)
    assert pace.share(sigmas[1], sigmas[2]) > 2 * pace.share(sigmas[25], sigmas[26])
    assert pace.share(sigmas[1], sigmas[2]) == pytest.approx(pace.share(sigmas[48], sigmas[49]))


def test_levels_above_one_count_as_the_share_of_the_noise() -> None:
    levels = [14.6, 7.0, 3.0, 1.0, 0.3, 0.0]
    shares = [level / (1 + level) for level in levels]
    pace, flow = Pace(levels), Pace(shares)
    for (a, b), (c, d) in zip(pairwise(levels), pairwise(shares), strict=True):
        assert pace.share(a, b) == pytest.approx(flow.share(c, d))


def test_a_run_that_does_not_move_is_not_trusted() -> None:
    assert Pace([0.5, 0.5, 0.5]).share(0.5, 0.5) == UNSURE


def test_two_levels_are_measured_by_noise_alone() -> None:
    assert Pace([1.0, 0.0]).share(1.0, 0.0) == 1.0
    assert math.isfinite(Pace([1.0, 0.5, 0.0]).share(1.0, 0.5))
