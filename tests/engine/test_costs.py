"""What a step costs beside the model, by counting: reads from the device, operators, copies."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import tiny_models
import torch
from sampling import SKIP_ALL, cached, report_of, sample
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu.reads import reads_of_evaluations
from teacache.engine.device import DeviceReader, SigmaReader
from teacache.engine.run import Run
from teacache.schedule import Schedule, StepTracker

pytestmark = pytest.mark.usefixtures("comfy")
COPIES = ("aten.clone", "aten._to_copy", "aten.copy_")


@pytest.fixture
def slow_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a noise level makes the host wait, as on a graphics card."""
    monkeypatch.setattr(SigmaReader, "is_cheap", staticmethod(lambda timestep: False))


def reads_per_step(model: Any, name: str, steps: int, **config: Any) -> tuple[list[int], Any]:
    """Reads within each evaluation."""
    threshold = config.pop("threshold")
    clone, handle = cached(model, threshold, **config)
    counts: list[int] = []
    begin, end = Run.begin_evaluation, Run.end_evaluation

    def beginning(run: Run, *args: Any, **kwargs: Any) -> None:
        counts.append(-run.reader.count)
        begin(run, *args, **kwargs)

    def ending(run: Run, *args: Any, **kwargs: Any) -> None:
        end(run, *args, **kwargs)
        counts[-1] += run.reader.count

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "begin_evaluation", beginning)
        patch.setattr(Run, "end_evaluation", ending)
        sample(clone, name, steps=steps)
    return counts, report_of(handle)


def test_a_forecast_is_read_once_for_each_computed_step(slow_device: None) -> None:
    model = tiny_models.build("sd3")
    counts, report = reads_per_step(model, "sd3", 24, mode="forecast", threshold=1.0)
    assert report.skipped >= 6
    known = [record.skipped for record in report.records]
    for step, (count, skipped) in enumerate(zip(counts, known, strict=True)):
        assert count <= 1
        assert not (skipped and known[step - 1] and count), "a skip after a skip reads nothing"
    assert sum(counts) <= report.computed


@pytest.mark.parametrize(
    "config",
    [
        {"mode": "faithful"},
        {"mode": "faithful", "predictor": "damped"},
        {"cached": "residual"},
    ],
)
def test_every_other_indicator_reads_once_a_step_at_most(
    config: dict[str, str], slow_device: None
) -> None:
    model = tiny_models.build("sd3")
    counts, report = reads_per_step(model, "sd3", 12, **config, threshold=0.5)
    assert max(counts) == 1
    assert len(counts) == len(report.records)


def test_a_known_schedule_reads_nothing(slow_device: None) -> None:
    model = tiny_models.build("wan21")
    counts, report = reads_per_step(model, "wan21", 12, mode="faithful", threshold=SKIP_ALL)
    assert report.skipped and report.indicator == "timestep"
    assert counts == [1] + 11 * [0], "the whole schedule at the first step"


def test_levels_that_are_not_the_schedules_are_noticed() -> None:
    reader = DeviceReader()
    read_sigma = SigmaReader(reader)
    position = StepTracker(Schedule([1.0, 0.5, 0.25, 0.0]), one_eval_per_step=True)

    def level(timestep: torch.Tensor) -> float:
        sigma = read_sigma(timestep, position.expected_sigma)
        position.advance(sigma)
        return sigma

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SigmaReader, "is_cheap", staticmethod(lambda timestep: False))
        assert level(torch.tensor([1.0, 1.0])) == 1.0 and reader.count == 0
        assert level(torch.tensor([0.4, 0.4])) == 0.5, "the schedule is trusted first"
        assert reader.read(torch.tensor([7.0])) == [7.0] and reader.count == 1
        assert read_sigma.lost
        assert level(torch.tensor([0.3])) == pytest.approx(0.3)


def test_a_run_that_lost_count_says_so(slow_device: None) -> None:
    """A sampler that is taken for a single one, and evaluates elsewhere."""
    import comfy.k_diffusion.sampling as known

    model = tiny_models.build("sd3")
    original = known.sample_lms

    def sample_lms(*args: Any, **kwargs: Any) -> Any:
        return known.sample_dpm_2(*args, **kwargs)

    sample_lms.__module__ = known.__name__
    known.sample_lms = sample_lms
    try:
        clone, handle = cached(model, 0.5, mode="forecast")
        sample(clone, "sd3", steps=10, sampler="lms")
    finally:
        known.sample_lms = original
    assert any("other noise levels" in warning for warning in report_of(handle).warnings)


class Operators(TorchDispatchMode):
    """Operator calls by name, for each evaluation of a run."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Counter[str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.steps:
            self.steps[-1][str(func).rsplit(".", 1)[0]] += 1
        return func(*args, **(kwargs or {}))


def operators(model: Any, name: str, steps: int, threshold: float, **config: Any) -> Any:
    """Operators within each evaluation, and the report."""
    clone, handle = cached(model, threshold, **config)
    counted = Operators()
    begin, end = Run.begin_evaluation, Run.end_evaluation
    done: list[Counter[str]] = []

    def beginning(run: Run, *args: Any, **kwargs: Any) -> None:
        counted.steps = [Counter()]
        begin(run, *args, **kwargs)

    def ending(run: Run, *args: Any, **kwargs: Any) -> None:
        end(run, *args, **kwargs)
        done.append(counted.steps[0])
        counted.steps = []

    with pytest.MonkeyPatch.context() as patch, counted:
        patch.setattr(Run, "begin_evaluation", beginning)
        patch.setattr(Run, "end_evaluation", ending)
        sample(clone, name, steps=steps)
    return done, report_of(handle)


def test_a_forecast_skip_is_a_handful_of_operators_and_no_copy() -> None:
    done, report = operators(tiny_models.build("sd3"), "sd3", 24, 1.0, mode="forecast")
    skips = [ops for ops, record in zip(done, report.records, strict=True) if record.skipped]
    computed = [ops for ops, record in zip(done, report.records, strict=True) if not record.skipped]
    assert len(skips) >= 6
    for ops in skips:
        assert ops["aten.lerp"] == 1 and sum(ops[name] for name in COPIES) <= 1
        assert sum(ops.values()) <= 20, ops
    assert min(sum(ops.values()) for ops in computed) > 20 * max(sum(o.values()) for o in skips)


@pytest.mark.parametrize("predictor", ["reuse", "linear"])
def test_a_residual_skip_copies_no_residual(predictor: str) -> None:
    """Per branch one addition into the output, after one extrapolation where that is asked."""
    config = {"mode": "faithful", "predictor": predictor}
    done, report = operators(tiny_models.build("sd3"), "sd3", 10, SKIP_ALL, **config)
    skips = [ops for ops, record in zip(done, report.records, strict=True) if record.skipped]
    assert len(skips) == 8
    assert skips[-1]["aten.lerp"] == 0  # one residual only: the first step's
    clones = {ops["aten.clone"] for ops in skips}
    off, _ = operators(tiny_models.build("sd3"), "sd3", 10, 1e-12, mode="faithful")
    assert max(clones) < min(ops["aten.clone"] for ops in off[1:-2])


def test_what_no_later_step_can_use_is_not_kept() -> None:
    """The last step, and all behind the range, copy nothing for the cache."""
    model = tiny_models.build("sd3")
    ranged, report = operators(model, "sd3", 10, 1e-12, mode="faithful", end_percent=0.5)
    assert not report.skipped
    clones = [ops["aten.clone"] for ops in ranged]
    assert clones[0] == clones[3] > clones[6] == clones[8] == clones[9]


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("sd3", {"mode": "forecast"}),
        ("sd3", {"mode": "faithful"}),
        ("sd3", {"mode": "faithful", "predictor": "damped"}),
        ("sd3", {"cached": "residual"}),
        ("wan21", {"mode": "faithful"}),
        ("flux1", {"mode": "forecast", "cache_device": "cpu"}),
    ],
    ids=str,
)
def test_every_read_from_the_device_is_counted(
    name: str, config: dict[str, Any], slow_device: None
) -> None:
    """By a spy on what makes the host wait: within evaluations none but the run's reader does."""
    clone, handle = cached(tiny_models.build(name), 0.5, **config)
    with reads_of_evaluations(torch.device("cpu"), "teacache").watching() as reads:
        sample(clone, name, steps=12)
    assert report_of(handle).skipped
    assert reads.modules == {"teacache.engine.device"}
    assert reads.seen.total() == reads.counted
