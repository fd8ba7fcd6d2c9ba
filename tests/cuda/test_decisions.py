"""Decisions on a device are those on the processor, for the same trajectory.

An uncached run on the processor is recorded: what the model is given and what it answers at each
noise level. Cached runs on the processor and on the device then replay it: whatever they sample,
the model is given the recorded latent, and its answer is replaced by the recorded one. What is
measured on the way is the device's own.

Forecasts read recorded values, whose sums a device only adds up in another order; the faithful mode
reads what the model's first block makes of the latent, rounded as the model's type rounds. The
tolerances of the distances follow from that, and no distance of the trajectory is so near to the
threshold that they could let a decision differ.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from on_device import (
    cache_on,
    each_device,
    each_host,
    each_mode,
    each_type,
    latent_of,
    model_on,
    pattern_of,
)

from benchmarks.gpu.building import denoiser_of
from benchmarks.testbeds import Testbed
from teacache.report import RunReport

pytestmark = pytest.mark.usefixtures("comfy")
STEPS = 12
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 5e-3, "fp8": 2e-2}
"""Relative, of the distances that are compared with the threshold, by the model's type."""
Trajectory = dict[float, tuple[torch.Tensor, torch.Tensor]]
"""By noise level: the latent that the model was given, and its answer; on the processor."""


def level(timestep: torch.Tensor) -> float:
    return float(timestep.flatten()[0])


def at_level(trajectory: Trajectory, timestep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What was recorded there; a device may round the level otherwise."""
    wanted = level(timestep)
    nearest = min(trajectory, key=lambda known: abs(known - wanted))
    assert nearest == pytest.approx(wanted, rel=1e-2)
    return trajectory[nearest]


@contextmanager
def answering(testbed: Testbed, answer: Any) -> Iterator[Any]:
    """The patcher or pipeline, whose model answers a call with `answer(latent, timestep, call)`.

    `call` takes the latent and gives what the model itself answers.
    """
    if testbed.patcher is not None:
        clone = testbed.patcher.clone()

        def wrapper(apply: Any, given: dict[str, Any]) -> Any:
            def call(latent: torch.Tensor) -> torch.Tensor:
                out: torch.Tensor = apply(latent, given["timestep"], **given["c"])
                return out

            return answer(given["input"], given["timestep"], call)

        clone.set_model_unet_function_wrapper(wrapper)
        yield clone
        return
    denoiser: Any = denoiser_of(testbed)
    original = denoiser.forward

    def forward(hidden_states: torch.Tensor, timestep: torch.Tensor, **given: Any) -> Any:
        def call(latent: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = original(hidden_states=latent, timestep=timestep, **given)[0]
            return out

        return (answer(hidden_states, timestep, call),)

    denoiser.forward = forward
    try:
        yield testbed.pipe
    finally:
        del denoiser.forward


def recorded(testbed: Testbed) -> Trajectory:
    """The trajectory of an uncached run."""
    found: Trajectory = {}

    def answer(latent: torch.Tensor, timestep: torch.Tensor, call: Any) -> torch.Tensor:
        out: torch.Tensor = call(latent)
        found[level(timestep)] = latent.cpu().clone(), out.cpu().clone()
        return out

    with answering(testbed, answer) as target:
        latent_of(testbed, target, STEPS)
    assert len(found) == STEPS
    return found


def replayed(testbed: Testbed, trajectory: Trajectory, **config: Any) -> RunReport:
    """The report of a cached run along the trajectory."""

    def answer(latent: torch.Tensor, timestep: torch.Tensor, call: Any) -> torch.Tensor:
        given, out = at_level(trajectory, timestep)
        call(given.to(latent))
        return out.to(latent.device)

    with answering(testbed, answer) as target:
        part = {"pipe": target} if testbed.patcher is None else {"patcher": target}
        with cache_on(replace(testbed, **part), **config) as (enabled, report_of):
            latent_of(testbed, enabled, STEPS)
    report = report_of()
    assert report is not None
    return report


def threshold_between(report: RunReport) -> float:
    """One that skips about half of the steps, in the middle of the widest gap between distances."""
    distances = sorted(each.distance for each in report.records if each.distance is not None)
    inner = distances[len(distances) // 4 : 3 * len(distances) // 4 + 1]
    gaps = [(after / before, before) for before, after in itertools.pairwise(inner)]
    factor, before = max(gaps)
    return before * factor**0.5


def assert_no_close_call(report: RunReport, threshold: float, tolerance: float) -> None:
    for record in report.records:
        if record.distance is not None:
            assert abs(record.accumulated / threshold - 1) > tolerance, record


@each_device
@each_type
@each_mode
@each_host
def test_decisions_are_those_on_the_processor(device: str, kind: str, mode: str, host: str) -> None:
    here, there = model_on("cpu", host, kind=kind), model_on(device, host, kind=kind)
    denoiser_of(there).load_state_dict(denoiser_of(here).state_dict())
    trajectory = recorded(here)
    config: dict[str, Any] = {"mode": mode, "max_skip": 3}
    if mode == "faithful":
        config["coefficients"] = (1.0, 0.0)
    all_computed = replayed(here, trajectory, rel_l1_thresh=1e-9, **config)
    assert pattern_of(all_computed) == "c" * STEPS
    threshold, tolerance = threshold_between(all_computed), TOLERANCE[kind]
    expected = replayed(here, trajectory, rel_l1_thresh=threshold, **config)
    assert_no_close_call(expected, threshold, tolerance)
    got = replayed(there, trajectory, rel_l1_thresh=threshold, **config)
    assert 2 <= got.skipped <= STEPS - 4
    assert pattern_of(got) == pattern_of(expected)
    for one, other in zip(got.records, expected.records, strict=True):
        assert one.reason is other.reason
        assert (one.distance is None) == (other.distance is None)
        if one.distance is not None:
            assert one.distance == pytest.approx(other.distance, rel=tolerance)
