"""Noise levels: relative step sizes, and which step an evaluation belongs to."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacache.config import FORCE_COMPUTE
from teacache.schedule import MAX_RAISE, Schedule, StepTracker, same_sigma

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


# --- what is known of a schedule ------------------------------------------------------------------


def test_levels_are_equal_up_to_rounding() -> None:
    assert same_sigma(10.0, 10.00005) and not same_sigma(10.0, 10.0005)
    assert same_sigma(0.0, 5e-7) and not same_sigma(0.0, 5e-6)


def test_the_sample_moves_until_the_noise_is_gone() -> None:
    assert Schedule(SIGMAS).last_step == 4
    assert Schedule([1.0, 0.5, 0.0, 0.0]).last_step == 1
    assert Schedule([1.0, 0.5, 0.5]).last_step == 0
    assert Schedule([1.0, 0.5, 0.0, 0.5]).last_step == 1, "without noise nothing is computed"
    assert Schedule([0.5, 0.5, 0.5]).last_step == 1, "nothing moves: the schedule's last step"
    assert Schedule([0.5]).last_step == 0 and Schedule([0.5]).steps == 0


def test_segments_begin_where_the_noise_level_turns() -> None:
    schedule = Schedule([1.0, 0.5, 0.5, 0.2, 0.6, 0.9, 0.4, 0.0])
    assert schedule.segments == [0, 0, 0, 1, 1, 2, 2]
    assert schedule.first_steps == {0, 3, 5}
    assert Schedule(SIGMAS).segments == [0] * 5 and Schedule(SIGMAS).first_steps == {0}


def log_snr(share: float) -> float:
    return math.log((1 - share) / share)


def test_a_step_is_measured_by_its_noise_and_by_its_log_snr() -> None:
    """The mean of both, each in parts of its mean over the schedule's steps."""
    schedule = Schedule(SIGMAS)
    noise = 0.1 / 0.2
    mean = (log_snr(0.2) - log_snr(0.8)) / 3  # the steps between 0.8 and 0.2
    snr = (log_snr(0.5) - log_snr(0.6)) / mean
    assert schedule.relative_step_size(0.6, 0.5) == pytest.approx((noise + snr) / 2)
    assert schedule.relative_step_size(0.5, 0.6) == schedule.relative_step_size(0.6, 0.5)


def test_levels_near_the_ends_are_clipped_and_padding_does_not_count() -> None:
    padded = Schedule([1.0, 1.0, 0.8, 0.8, 0.6, 0.4, 0.2, 0.0, 0.0])
    for a, b in pairwise(SIGMAS):
        expected = Schedule(SIGMAS).relative_step_size(a, b)
        assert padded.relative_step_size(a, b) == pytest.approx(expected)
    mean = (log_snr(0.2) - log_snr(0.8)) / 3
    snr = (log_snr(1e-4) - log_snr(0.2)) / mean
    assert padded.relative_step_size(0.2, 0.0) == pytest.approx((1 + snr) / 2)
    assert padded.relative_step_size(1.0, 0.8) == pytest.approx((1 + snr) / 2)


@pytest.mark.parametrize("end", [1e-4, 1 - 1e-4])
def test_a_level_at_the_margin_counts_as_an_end(end: float) -> None:
    """Only the noise tells the size of a step where no two levels lie between the ends."""
    levels = sorted([1.0, 0.5, end, 0.0], reverse=True)
    mean = 1 / 3
    assert Schedule(levels).relative_step_size(0.5, 0.25) == pytest.approx(0.25 / mean)


def test_a_level_of_one_is_a_flow_models() -> None:
    flow, other = Schedule([1.0, 0.5, 0.0]), Schedule([1.5, 0.5, 0.0])
    assert flow.relative_step_size(1.0, 0.5) == 1.0
    shares = Schedule([1.5 / 2.5, 0.5 / 1.5, 0.0])
    assert other.relative_step_size(1.5, 0.5) == pytest.approx(
        shares.relative_step_size(1.5 / 2.5, 0.5 / 1.5)
    )


def test_where_a_schedule_turns_the_step_at_hand_comes_first() -> None:
    sigmas = [1.0, 0.5, 1.0, 0.5, 0.0]
    schedule = Schedule(sigmas)
    assert [schedule.step_at(0.5, current) for current in range(4)] == [1, 1, 3, 3]
    assert [schedule.step_at(1.0, current) for current in range(4)] == [0, 2, 2, 0]
    assert [schedule.step_at(0.7, current) for current in range(4)] == [0, 1, 2, 0]
    assert schedule.step_at(0.2, 0) == 3


def test_a_level_outside_of_the_schedule_belongs_to_the_step_at_hand() -> None:
    assert Schedule(SIGMAS).step_at(1.5, 0) == 0
    assert Schedule(SIGMAS).step_at(1.5, 3) == 3
    assert Schedule([0.5]).step_at(1.5, 0) == 0
    assert Schedule(SIGMAS).step_at(0.0, 1) == 4, "the end belongs to the last step"
    assert Schedule(SIGMAS[::-1]).step_at(1.0, 1) == 4, "also where levels rise"


# --- the position in it --------------------------------------------------------------------------


def test_a_sampler_with_one_evaluation_per_step_is_counted() -> None:
    tracker = StepTracker(Schedule([1.0, 0.5, 0.5, 0.0]), one_eval_per_step=True)
    assert (tracker.evaluations, tracker.step, tracker.sigma) == (0, 0, 0.0)
    seen = []
    for sigma in (1.0, 0.5, 0.5):
        assert tracker.expected_sigma == sigma
        tracker.advance(sigma)
        seen.append((tracker.step, tracker.evaluations, tracker.step_size))
    assert seen == [(0, 1, -0.5), (1, 2, 0.0), (2, 3, -0.5)]
    assert tracker.expected_sigma is None
    tracker.advance(0.0)
    assert tracker.step == 2, "one evaluation more than steps"


def test_a_level_that_is_not_the_next_one_is_searched_for() -> None:
    tracker = StepTracker(Schedule(SIGMAS), one_eval_per_step=True)
    tracker.advance(0.6)
    assert tracker.step == 2
    tracker.advance(0.8)
    assert tracker.step == 1
    tracker.advance(0.8, step=3)
    assert (tracker.step, tracker.sigma) == (3, 0.8)


def test_of_another_sampler_the_size_of_the_step_before_is_taken() -> None:
    tracker = StepTracker(Schedule(SIGMAS), one_eval_per_step=False)
    assert tracker.expected_sigma is None
    sizes = []
    for sigma in (0.8, 0.8, 0.7, 0.4):
        tracker.advance(sigma)
        sizes.append(pytest.approx(tracker.step_size))
    assert sizes == [-0.2, -0.2, -0.1, -0.3]
    assert [tracker.step, tracker.evaluations] == [3, 4]


def test_before_the_first_evaluation_the_size_is_the_schedules() -> None:
    for one_eval_per_step in (True, False):
        tracker = StepTracker(Schedule([0.0, 0.2, 1.0]), one_eval_per_step)
        assert tracker.step_size == pytest.approx(0.2)


def test_the_step_in_average_steps_is_that_of_the_position() -> None:
    schedule = Schedule(SIGMAS)
    tracker = StepTracker(schedule, one_eval_per_step=True)
    tracker.advance(1.0)
    tracker.advance(0.8)
    assert tracker.relative_step_size == pytest.approx(schedule.relative_step_size(0.8, 0.6))


def test_the_segment_is_that_of_the_position() -> None:
    tracker = StepTracker(Schedule([0.2, 1.0, 0.5, 0.0]), one_eval_per_step=False)
    segments = []
    for sigma in (0.2, 1.0, 0.5):
        tracker.advance(sigma)
        segments.append(tracker.segment)
    assert segments == [0, 1, 1]


def test_a_raised_level_belongs_to_the_last_step_up_to_the_root_of_two() -> None:
    schedule, end = Schedule(SIGMAS), SIGMAS[4]
    assert schedule.step_at(MAX_RAISE * end, 3, raised=True) == 4
    assert schedule.step_at(1.45 * end, 3, raised=True) == 3, "between the levels of step 3"
    assert schedule.step_at(1.2 * end, 3) == 3


def test_a_sampler_is_not_taken_to_raise_levels() -> None:
    tracker = StepTracker(Schedule(SIGMAS), one_eval_per_step=False)
    tracker.advance(0.25)
    assert tracker.step == 3


def test_each_time_that_the_schedule_begins_again_its_segments_count_on() -> None:
    tracker = StepTracker(Schedule(SIGMAS), one_eval_per_step=False)
    seen = []
    for sigma in (1.0, 0.2, 1.0, 0.2, 1.0):
        tracker.advance(sigma)
        seen.append(tracker.segment)
    assert seen == [0, 0, 5, 5, 10]


def test_a_run_that_falls_to_a_level_of_noise_leaves_it_for_another() -> None:
    assert Schedule([1.0, 0.9, 0.8]).leaves_noise
    assert Schedule([14.6, 6.0, 1.0]).leaves_noise  # a share of one half
    assert not Schedule([1.0, 0.5, 0.0]).leaves_noise
    assert not Schedule([14.6, 6.0, 0.03]).leaves_noise  # ends at the model's lowest level
    assert not Schedule([1.0, 0.5, 0.05]).leaves_noise and Schedule([1.0, 0.5, 0.06]).leaves_noise
    assert not Schedule([0.0, 0.5, 1.0]).leaves_noise  # noise is added
    assert not Schedule([0.8, 0.8]).leaves_noise
