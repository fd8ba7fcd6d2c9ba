"""Every sampler and scheduler that ComfyUI lists: runs, counts steps, leaves nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hostile import MODES, SKIP_HALF, cached_run, live_objects, run, small_model
from sampling import SKIP_NONE, spying

from teacache.report import Reason, RunReport

pytestmark = pytest.mark.usefixtures("comfy")
STEPS = {"forecast": 5, "faithful": 4}
LOOKS_AHEAD = ("heunpp2",)
"""Evaluates up to two steps ahead, and goes back."""
ADAPTIVE = ("dpm_fast", "dpm_adaptive")


@pytest.fixture(scope="module")
def model(comfy: Any) -> Any:
    return small_model(depth=1)


def counts_rightly(report: RunReport, sampler: str) -> bool:
    """Every step is evaluated, in order, each evaluation at its step's noise levels."""
    steps = [record.step for record in report.records]
    inside = all(
        report.sigmas[r.step + 1] - 1e-4 <= r.sigma <= report.sigmas[r.step] + 1e-4
        for r in report.records
    )
    if sampler in ADAPTIVE:
        return inside
    in_order = steps == sorted(steps) or sampler in LOOKS_AHEAD
    return inside and in_order and set(steps) == set(range(report.steps))


@pytest.mark.parametrize("mode", MODES)
def test_every_sampler_with_every_scheduler(model: Any, mode: str) -> None:
    import comfy.samplers

    skipped = 0
    for sampler in comfy.samplers.SAMPLER_NAMES:
        for scheduler in comfy.samplers.SCHEDULER_NAMES:
            with spying(model) as spy:
                out, report = cached_run(
                    model, mode, steps=STEPS[mode], cfg=1.0, sampler=sampler, scheduler=scheduler
                )
            case = (mode, sampler, scheduler, report.records)
            assert torch.isfinite(out).all(), case
            assert report.outcome == "done", case
            assert counts_rightly(report, sampler), case
            whole = report.cached == "prediction"
            called = report.computed if whole else len(report.records)
            assert len(spy.per_call) == called, case
            assert spy.skipped_calls == (0 if whole else report.skipped), case
            first, last = report.records[0], report.records[-1]
            assert not first.skipped and not last.skipped, case
            skipped += report.skipped
            if mode == "forecast" and not whole:
                break  # what runs is the faithful mode, which goes through all schedulers
    assert skipped > 100
    assert live_objects() == []


@pytest.mark.parametrize("mode", MODES)
def test_nothing_skipped_is_bit_identical_with_every_sampler(model: Any, mode: str) -> None:
    import comfy.samplers

    for sampler in comfy.samplers.SAMPLER_NAMES:
        native = run(model, steps=STEPS[mode], sampler=sampler)
        got, report = cached_run(model, mode, SKIP_NONE, steps=STEPS[mode], sampler=sampler)
        assert report.skipped == 0, sampler
        assert torch.equal(got, native), sampler


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sampler", ADAPTIVE)
def test_a_sampler_that_chooses_its_own_levels_is_computed_and_told(
    model: Any, sampler: str, mode: str
) -> None:
    """Its error control would measure the cache, and its last evaluation is not the schedule's."""
    native = run(model, steps=STEPS[mode], sampler=sampler)
    got, report = cached_run(model, mode, 10 * SKIP_HALF[mode], steps=STEPS[mode], sampler=sampler)
    assert torch.equal(got, native)
    assert {record.reason for record in report.records} == {Reason.UNCACHED}
    assert report.warnings == [
        f"The sampler {sampler} chooses its own noise levels: every step is computed."
    ]
    assert report.advice == "" and report.bytes_held == 0
