"""What a planned run finds its skips to have missed, read once, at its end."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from calibrations import calibration, conditions, even_plan
from lone_runs import CPU, EULER, SIGMAS, profile, run_of

from teacache.config import TeaCacheConfig
from teacache.engine.forward import PredictionForward
from teacache.engine.presets import RunContext, resolve_settings
from teacache.engine.run import Run
from teacache.engine.strategy import SamplerTraits, planned_settings
from teacache.profiles.calibrated import PlanResult
from teacache.report import RunReport

PLAN = (0, 1, 4)
VALUES = [1.0, 2.0, 2.5, 2.6, 4.0]


def planned_run(usual: float | None = None, sampler: SamplerTraits = EULER) -> Run:
    settings = planned_settings(TeaCacheConfig(), profile(), PLAN, usual)
    return run_of(sampler=sampler, settings=settings)


def sampled(run: Run, outcome: str = "done") -> tuple[RunReport, list[float]]:
    """The report, and what the run took for the value of each step."""
    followed = []
    for sigma, value in zip(SIGMAS, VALUES, strict=False):
        run.begin_evaluation(sigma, CPU)
        forward = PredictionForward(run, run.decide("run"), "all", ())
        like = torch.full((1, 1), value)
        if forward.skipping:
            predicted = forward.predict(like)
            assert predicted is not None
            followed.append(float(predicted))
        else:
            forward.observe(like)
            followed.append(value)
        run.end_evaluation()
    return run.finish(outcome), followed


@pytest.mark.parametrize("sampler", [EULER, replace(EULER, name="other", euler=False)])
def test_the_error_of_the_next_computed_step_is_scaled_to_the_skipped_ones(
    sampler: SamplerTraits,
) -> None:
    run = planned_run(sampler=sampler)
    report, followed = sampled(run)
    slope = (followed[3] - followed[2]) / (SIGMAS[3] - SIGMAS[2])
    prediction = followed[3] + slope * (SIGMAS[4] - SIGMAS[3])
    missed = abs(VALUES[4] - prediction) / prediction
    here = (1.0 - 0.2) * (0.8 - 0.2)
    sizes = [run.position.schedule.relative_step_size(SIGMAS[k], SIGMAS[k + 1]) for k in (2, 3)]
    shares = [(1.0 - s) * (0.8 - s) / here for s in (0.6, 0.4)]
    expected = missed * sum(share * size for share, size in zip(shares, sizes, strict=True)) / 5
    assert report.expected_error == pytest.approx(expected, rel=1e-5)
    assert report.expected_change and report.expected_change in report.summary
    assert run.reader.count == 1 and report.warnings == []


@pytest.mark.parametrize("outcome", ["interrupted", "failed"])
def test_nothing_is_read_where_the_run_did_not_end_by_itself(outcome: str) -> None:
    run = planned_run()
    report, _ = sampled(run, outcome)
    assert report.expected_error is None and run.reader.count == 0


def test_a_run_that_left_the_path_of_its_plan_says_so() -> None:
    usual = sampled(planned_run())[0].expected_error
    assert usual
    for part, told in ((1.0, False), (0.51, False), (0.49, True)):
        report, _ = sampled(planned_run(usual * part))
        assert bool(report.warnings) == told
    (sentence,) = report.warnings
    assert sentence.startswith(
        "This run left the path that its plan was calibrated on: predictions"
    )
    assert "missed 2.0 times as much as in the worst of those runs" in sentence


def test_no_memory_for_the_read_leaves_the_estimate_out(monkeypatch: pytest.MonkeyPatch) -> None:
    run = planned_run(1e-9)

    def full() -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(run.reader, "read", full)
    report, _ = sampled(run)
    assert report.expected_error is None and report.outcome == "done" and report.warnings == []


def test_the_path_is_that_of_the_same_plan_on_the_same_levels() -> None:
    made = calibration(
        plan_results=(PlanResult(25, 0.01, 0.02, expected_error=0.3),), default_result=None
    )
    config = TeaCacheConfig(rel_l1_thresh=None, preset="2.0x")
    context = RunContext(made.profile, made.conditions, EULER, made, named=True)
    settings = resolve_settings(config, context)
    assert settings.plan == even_plan(50, 25) and settings.usual_error == 0.3
    adapted = replace(context, conditions=conditions(steps=30))
    assert resolve_settings(config, adapted).usual_error is None
    limited = resolve_settings(replace(config, start_percent=0.5), context)
    assert limited.plan != settings.plan and limited.usual_error is None
