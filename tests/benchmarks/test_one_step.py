"""Errors one step ahead, and the estimate of a run's change, on series whose answer is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("scipy")
pytestmark = pytest.mark.usefixtures("comfy")


def series(curve: Any, steps: int = 12) -> tuple[list[float], list[torch.Tensor]]:
    sigmas = [1.0 - step / steps for step in range(steps + 1)]
    shape = torch.tensor([1.0, -2.0, 0.5])
    return sigmas, [curve(sigma) * shape for sigma in sigmas[:-1]]


def test_a_line_is_continued_and_a_parabola_only_by_one() -> None:
    from benchmarks import one_step

    straight = one_step.errors(*series(lambda sigma: 2.0 + sigma))
    assert max(straight["line"]) < 1e-5 < min(straight["reuse"])
    assert max(straight["best fraction"]) < 1e-5
    bent = one_step.errors(*series(lambda sigma: 2.0 + sigma**2))
    assert max(bent["parabola"]) < 1e-5 < min(bent["line"])


def test_no_predictor_on_the_line_is_better_than_the_best_fraction() -> None:
    from benchmarks import one_step

    found = one_step.errors(*series(lambda sigma: 2.0 + torch.tensor(7 * sigma).sin()))
    for name in ("reuse", "line", "damped", "recursive least squares"):
        pairs = zip(found["best fraction"], found[name], strict=True)
        assert all(best <= other + 1e-6 for best, other in pairs)


def test_errors_are_averaged_over_thirds_and_runs() -> None:
    from benchmarks import one_step

    runs = [{"line": [1.0, 3.0, 5.0, 7.0, 9.0, 11.0]}, {"line": [3.0, 5.0, 7.0, 9.0, 11.0, 13.0]}]
    assert one_step.by_thirds(runs) == {"line": [3.0, 7.0, 11.0]}


def test_the_estimates_figures() -> None:
    from benchmarks import expected_change

    runs = [
        expected_change.Run("g", error, estimated, true)
        for error, estimated, true in ((0.001, 70.0, 75.0), (0.01, 60.0, 55.0), (0.1, 40.0, 35.0))
    ]
    assert expected_change.row("g", runs) == ["g", "3", "1.00", "+1.7", "4.7"]
    intercept, slope = expected_change.fitted(runs)
    assert (intercept, slope) == pytest.approx((15.0, 20.0))
