"""Schedulers of other packages: proxies, steps of an object's own, settings that are not there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

import tiny_pipelines
from foreign_pipelines import SCHEDULERS
from hostile import MODES
from pipeline_sampling import SKIP_ALL, SKIP_NONE, assert_nothing_is_left, report_of, state_of
from tiny_pipelines import STEPS, generate

from teacache.hosts.diffusers.enable import teacache
from teacache.hosts.diffusers.schedulers import sampler_traits

FOREIGN = ("proxy", "own step", "subclass", "few settings")


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_pipelines.build("sd3")


def run(pipe: Any, scheduler: str) -> torch.Tensor:
    pipe.scheduler = SCHEDULERS[scheduler]()
    return generate(pipe, "sd3")


@pytest.mark.parametrize("scheduler", FOREIGN)
def test_off_and_nothing_skipped_are_native(pipe: Any, scheduler: str) -> None:
    native = run(pipe, scheduler)
    before = state_of(pipe)
    for threshold in (0.0, SKIP_NONE):
        with teacache(pipe, threshold, mode="faithful") as handle:
            assert torch.equal(run(pipe, scheduler), native)
        assert report_of(handle).outcome == "done" and not report_of(handle).skipped
    assert state_of(pipe) == before
    assert_nothing_is_left(pipe)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scheduler", ["proxy", "subclass"])
def test_nothing_is_assumed_of_a_step_that_is_not_of_diffusers(
    pipe: Any, scheduler: str, mode: str
) -> None:
    with teacache(pipe, SKIP_ALL, mode=mode) as handle:
        first = run(pipe, scheduler)
        report = report_of(handle)
        assert report.method == "faithful" and report.skipped == STEPS - 2
        said = "what it does between the steps is not known"
        assert said in " ".join(report.warnings) or mode != "forecast"
        assert torch.equal(run(pipe, scheduler), first)
    used = pipe.scheduler.inner if scheduler == "proxy" else pipe.scheduler
    assert "step" not in vars(used)


def test_a_scheduler_that_cannot_be_read_runs_without_the_cache(pipe: Any) -> None:
    native = run(pipe, "few settings")
    with teacache(pipe, SKIP_ALL, mode="faithful") as handle:
        assert torch.equal(run(pipe, "few settings"), native)
    report = report_of(handle)
    (warning,) = report.warnings
    assert "the scheduler's noise levels cannot be read" in warning
    assert report.outcome == "done" and not report.records


def test_a_class_of_the_same_name_is_not_the_one_of_diffusers() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler as Known

    assert sampler_traits(Known()).euler
    kind = type(Known.__name__, (Known,), {"step": lambda self, *args, **options: None})
    assert sampler_traits(kind()).foreign
    assert sampler_traits(type("Shifted", (Known,), {})()).euler
