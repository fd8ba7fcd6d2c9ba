"""Planning: the errors of gaps, the best plans, and what is kept of a run to find them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from teacache.calibration.schedule_search import (
    PEAKS,
    best_plans,
    gap_error,
    gap_errors,
    neighbours,
    plan_error,
    probe_plans,
    weighted,
)
from teacache.calibration.sketch import SIZE, Sketcher, gram
from teacache.calibration.trajectory import Trajectory
from teacache.engine.forward import RELIABLE_ERROR


def schedule(steps: int, shift: float = 3.0) -> tuple[float, ...]:
    times = [1 - k / steps for k in range(steps + 1)]
    return tuple(shift * t / (1 + (shift - 1) * t) for t in times)


def trajectory(values: torch.Tensor, sigmas: tuple[float, ...]) -> Trajectory:
    """values: derivatives, [steps, n]."""
    return Trajectory(sigmas, gram(list(values)).numpy())


def random_run(seed: int, steps: int = 12) -> Trajectory:
    generator = torch.Generator().manual_seed(seed)
    drift = torch.randn(steps, 30, generator=generator).cumsum(0)
    return trajectory(drift, schedule(steps))


def test_a_line_has_a_gap_error_of_half_its_bend_and_little_once_corrected() -> None:
    """Half-way along a line misses the other half; what the correction's gain leaves stays."""
    sigmas = schedule(10)
    slope = torch.tensor([[1.0, -2.0, 0.5]])
    run = trajectory(torch.tensor(sigmas[:-1])[:, None] * slope, sigmas)
    way = abs(sigmas[4] - sigmas[3]) / 2 * slope.norm().item()
    missed = way * abs(sigmas[5] - sigmas[4]) / run.length
    assert gap_error(run, 2, 3, 5, euler=False) == pytest.approx(missed, rel=1e-5)
    shown = missed * abs(sigmas[6] - sigmas[5]) / sigmas[5]
    gain = 1 / (1 + ((sigmas[3] - sigmas[5]) / 2 / sigmas[5] / RELIABLE_ERROR) ** 2)
    expected = shown + (1 - gain) * missed
    assert gap_error(run, 2, 3, 5, euler=True) == pytest.approx(expected, rel=1e-4)


def test_the_error_of_a_gap_is_what_skipping_adds() -> None:
    """Against integrating the values themselves, on a run that nothing holds a sketch of."""
    steps = 9
    values = torch.randn(steps, 50, generator=torch.Generator().manual_seed(3)).cumsum(0)
    sigmas = schedule(steps)
    run = trajectory(values, sigmas)
    before, start, end = 1, 3, 6
    added = torch.zeros(50)
    for step in (4, 5):
        ratio = (sigmas[step] - sigmas[start]) / (sigmas[start] - sigmas[before])
        used = values[start] + 0.5 * ratio * (values[start] - values[before])
        added += (sigmas[step + 1] - sigmas[step]) * (used - values[step])
    expected = added.norm().item() / run.length
    assert gap_error(run, before, start, end, euler=False) == pytest.approx(expected, rel=1e-4)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.booleans())
def test_no_plan_of_its_length_is_better_than_the_best_one(seed: int, euler: bool) -> None:
    steps = 9
    errors = gap_errors([random_run(seed, steps), random_run(seed + 1, steps)], euler)
    for peak in PEAKS:
        plans = best_plans(errors, steps, peak)
        for count, plan in plans.items():
            assert len(plan) == count and plan[0] == 0 and plan[-1] == steps - 1
            inner = itertools.combinations(range(1, steps - 1), count - 2)
            every = [plan_error(errors, (0, *chosen, steps - 1), peak) for chosen in inner]
            assert plan_error(errors, plan, peak) <= min(every) * (1 + 1e-9)


def test_more_computed_steps_are_never_worse() -> None:
    errors = gap_errors([random_run(7, 20)], euler=True)
    plans = best_plans(errors, 20, PEAKS[0])
    found = [plan_error(errors, plans[count], PEAKS[0]) for count in sorted(plans)]
    assert all(b <= a * (1 + 1e-9) for a, b in itertools.pairwise(found))
    assert found[-1] == 0.0 and plans[20] == tuple(range(20))


def test_neighbours_move_one_step_and_stay_plans() -> None:
    errors = gap_errors([random_run(1)], euler=True)
    plan = (0, 2, 3, 7, 11)
    near = neighbours(errors, plan, PEAKS[0])
    assert len(near) == 4
    for other in near:
        assert len(set(plan) - set(other)) == 1 and sorted(set(other)) == list(other)
        assert (other[0], other[-1]) == (0, 11)
    costs = [plan_error(errors, other, PEAKS[0]) for other in near]
    assert costs == sorted(costs)


def test_probes_skip_every_other_step_of_one_part() -> None:
    plans = probe_plans(50)
    skipped = [sorted(set(range(50)) - set(plan)) for plan in plans]
    assert len(plans) == 6 and sorted(itertools.chain(*skipped))[0] == 1
    for part in skipped:
        assert all(b - a == 2 for a, b in itertools.pairwise(part))
    assert all(plan[0] == 0 and plan[-1] == 49 for plan in plans)
    assert all(len(plan) < 8 for plan in probe_plans(8))


def test_a_part_whose_errors_grow_gets_more_computed_steps() -> None:
    steps = 24
    errors = gap_errors([random_run(5, steps)], euler=False)
    probes = probe_plans(steps)
    missed = [plan_error(errors, plan, 1.0) for plan in probes]
    calm = [[error] for error in missed]
    early = [[error * (10.0 if number < 2 else 1.0)] for number, error in enumerate(missed)]
    count = 12

    def computed_early(measured: list[list[float]]) -> int:
        plan = best_plans(weighted(errors, probes, measured), steps, PEAKS[0])[count]
        return sum(step < steps // 3 for step in plan)

    assert computed_early(early) > computed_early(calm)


def test_probes_that_measured_nothing_change_nothing() -> None:
    errors = gap_errors([random_run(2)], euler=True)
    probes = probe_plans(12)
    same = weighted(errors, probes, [[0.0]] * len(probes))
    assert all(np.array_equal(same[gap], errors[gap]) for gap in errors)


# --- sketches ------------------------------------------------------------------------------------


def test_a_small_tensor_is_kept_whole() -> None:
    sketch = Sketcher()
    value = torch.randn(2, 3, 5)
    assert torch.equal(sketch(value), value.flatten())


def test_a_sketch_is_linear_and_keeps_inner_products() -> None:
    generator = torch.Generator().manual_seed(1)
    one, other = (torch.randn(1, 40, 4001, generator=generator) for _ in range(2))
    other = one * 0.7 + other
    sketch = Sketcher()
    a, b = sketch(one), sketch(other)
    assert a.shape == (SIZE,)
    torch.testing.assert_close(sketch(2 * one - other), 2 * a - b, rtol=0, atol=1e-3)
    assert a.norm() == pytest.approx(one.norm().item(), rel=0.03)
    assert (a - b).norm() == pytest.approx((one - other).norm().item(), rel=0.03)
    assert torch.dot(a, b) == pytest.approx((one * other).sum().item(), rel=0.05)
    assert torch.equal(a, Sketcher()(one)), "the signs depend on the size alone"


def test_norms_are_finite_for_identical_derivatives() -> None:
    run = trajectory(torch.ones(6, 4), schedule(6))
    assert gap_error(run, 1, 2, 4, euler=True) == pytest.approx(0.0, abs=1e-7)
    assert math.isfinite(run.length)
