"""Noise levels: relative step sizes, and which step an evaluation belongs to."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacache.config import FORCE_COMPUTE
from teacache.schedule import Schedule

SIGMAS = [1.0, 0.8, 0.6, 0.4, 0.2, 0.0]


@given(st.integers(4, 60), st.floats(0.5, 8.0))
def test_an_average_step_is_one(steps: int, shift: float) -> None:
    times = [1 - k / steps for k in range(steps + 1)]
    sigmas = [shift * t / (1 + (shift - 1) * t) for t in times]
    schedule = Schedule(sigmas)
    inner = [schedule.relative_step_size(a, b) for a, b in pairwise(sigmas)][1:-1]
    noise = [abs(b - a) * steps for a, b in pairwise(sigmas)][1:-1]
    by_noise = sum(noise) / len(noise)
    assert sum(inner) / len(inner) == pytest.approx((by_noise + 1) / 2)


def test_the_noisiest_steps_count_more_than_their_length() -> None:
    sigmas = [1 - k / 50 for k in range(51)]
    schedule = Schedule(sigmas)
    assert schedule.relative_step_size(sigmas[1], sigmas[2]) > 2 * schedule.relative_step_size(
        sigmas[25], sigmas[26]
    )
    assert schedule.relative_step_size(sigmas[1], sigmas[2]) == pytest.approx(
        schedule.relative_step_size(sigmas[48], sigmas[49])
    )


def test_levels_above_one_count_as_the_share_of_the_noise() -> None:
    levels = [14.6, 7.0, 3.0, 1.0, 0.3, 0.0]
    shares = [level / (1 + level) for level in levels]
    schedule, flow = Schedule(levels), Schedule(shares)
    for (a, b), (c, d) in zip(pairwise(levels), pairwise(shares), strict=True):
        assert schedule.relative_step_size(a, b) == pytest.approx(flow.relative_step_size(c, d))


def test_a_run_that_does_not_move_is_not_trusted() -> None:
    assert Schedule([0.5, 0.5, 0.5]).relative_step_size(0.5, 0.5) == FORCE_COMPUTE


def test_two_levels_are_measured_by_noise_alone() -> None:
    assert Schedule([1.0, 0.0]).relative_step_size(1.0, 0.0) == 1.0
    assert math.isfinite(Schedule([1.0, 0.5, 0.0]).relative_step_size(1.0, 0.5))


def test_a_heun_corrector_belongs_to_the_step_of_its_level() -> None:
    steps, current = [], 0
    for sigma in (1.0, 0.8, 0.8, 0.6, 0.6, 0.4):
        current = Schedule(SIGMAS).step_at(sigma, current)
        steps.append(current)
    assert steps == [0, 1, 1, 2, 2, 3]


def test_a_level_between_two_belongs_to_the_step_that_spans_it() -> None:
    assert Schedule(SIGMAS).step_at(0.7, 1) == 1
    assert Schedule(SIGMAS).step_at(0.1, 3) == 4


def test_a_schedule_that_rises_again_keeps_its_place() -> None:
    sigmas = [1.0, 0.5, 0.8, 0.5, 0.2, 0.0]
    steps, current = [], 0
    for sigma in sigmas[:-1]:
        current = Schedule(sigmas).step_at(
            sigma, current if sigma != 0.5 or not steps else current + 1
        )
        steps.append(current)
    assert steps == [0, 1, 2, 3, 4]


@given(
    st.lists(st.floats(0.01, 100), min_size=1, max_size=40, unique=True),
    st.data(),
)
def test_a_level_of_a_falling_schedule_is_found_from_anywhere(levels: list[float], data) -> None:
    sigmas = [*sorted(levels, reverse=True), 0.0]
    distinct = [s for i, s in enumerate(sigmas[:-1]) if i == 0 or sigmas[i - 1] > s * 1.001]
    sigma = data.draw(st.sampled_from(distinct))
    current = data.draw(st.integers(0, len(levels) - 1))
    found = Schedule([*distinct, 0.0]).step_at(sigma, min(current, len(distinct) - 1))
    assert distinct[found] == sigma
