"""Cached values in main memory, and a device without memory for them."""

from __future__ import annotations

import gc
import weakref
from typing import Any
from unittest.mock import patch

import pytest
import torch
from on_device import (
    SKIP_SOME,
    each_device,
    each_host,
    each_mode,
    model_on,
    pattern_of,
    run_out_of_memory,
    sampled,
    sampled_with_cache,
)

from benchmarks.gpu.building import denoiser_of
from benchmarks.gpu.cases import Case
from benchmarks.gpu.models import TINY
from benchmarks.gpu.session import Session
from benchmarks.testbeds import DIFFUSERS
from teacache.engine.forward import StackForward
from teacache.engine.predictors import Predictor
from teacache.engine.run import Run

pytestmark = pytest.mark.usefixtures("comfy")


@each_device
@each_host
@each_mode
def test_what_waits_in_main_memory_comes_back_unchanged(device: str, host: str, mode: str) -> None:
    """In pinned memory where there is a device, so that no copy makes the host wait."""
    testbed = model_on(device, host, kind="bf16")
    expected, beside = sampled_with_cache(testbed, cache_device="device", **SKIP_SOME[mode])
    kept: list[torch.Tensor] = []
    place = Run.to_cache_device

    def placing(run: Run, tensor: torch.Tensor) -> torch.Tensor:
        kept.append(place(run, tensor))
        return kept[-1]

    with patch.object(Run, "to_cache_device", placing):
        got, report = sampled_with_cache(testbed, cache_device="cpu", **SKIP_SOME[mode])
    assert report.skipped and pattern_of(report) == pattern_of(beside)
    assert report.bytes_held == beside.bytes_held and torch.equal(got, expected)
    assert {tensor.device.type for tensor in kept} == {"cpu"}
    assert device == "cpu" or all(tensor.is_pinned() for tensor in kept)


def allocated(device: str) -> int:
    """Bytes of a CUDA device that tensors occupy; 0 on the processor."""
    gc.collect()
    return torch.cuda.memory_allocated(device) if device == "cuda" else 0


class NoMemory:
    """Lets a method run out of the device's memory from its `nth` call on."""

    def __init__(self, owner: Any, name: str, nth: int) -> None:
        self._owner, self._name, self._nth = owner, name, nth
        self.calls = 0

    def __enter__(self) -> NoMemory:
        method = getattr(self._owner, self._name)

        def call(this: Any, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls >= self._nth:
                tensors = (each for each in args if isinstance(each, torch.Tensor))
                run_out_of_memory(next(tensors).device)
            return method(this, *args, **kwargs)

        self._patch = patch.object(self._owner, self._name, call)
        self._patch.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._patch.__exit__(*error)


@each_device
@each_host
@each_mode
@pytest.mark.parametrize("where", ["keep", "predict"])
def test_no_memory_for_the_cache_costs_no_image(
    device: str, host: str, mode: str, where: str
) -> None:
    """The rest of the run is computed; nothing stays behind."""
    if where == "predict" and host == DIFFUSERS and mode == "forecast":
        pytest.skip("the model's call was left out already: there is nothing to fall back on")
    testbed = model_on(device, host, kind="bf16")
    expected = sampled(testbed)
    sampled_with_cache(testbed, **SKIP_SOME[mode])
    before = allocated(device)
    owner, name = {"keep": (Run, "to_cache_device"), "predict": (Predictor, "predict")}[where]
    fails = NoMemory(owner, name, 1)
    with fails:
        got, report = sampled_with_cache(testbed, **SKIP_SOME[mode])
    assert fails.calls and any("no memory left" in warning for warning in report.warnings)
    assert "s" not in pattern_of(report) and torch.equal(got, expected)
    assert allocated(device) <= before
    again, later = sampled_with_cache(testbed, **SKIP_SOME[mode])
    assert later.skipped and again.isfinite().all()


@each_device
@each_host
@pytest.mark.parametrize("kind", ["peers", "reads"])
def test_a_benchmarks_model_is_freed_before_the_next_one(device: str, host: str, kind: str) -> None:
    """The largest ones do not fit a device beside each other."""
    chosen = torch.device(device)
    if device == "cuda":  # what the first run leaves on it for good
        Session(chosen, TINY, True, 9.0).record(Case("flux1", host, "steps"))
    before = allocated(device)
    session = Session(chosen, TINY, True, 9.0)
    record = session.record(Case("flux1", host, kind))
    assert "failed" not in record, record
    built = session._built
    assert built is not None
    model = weakref.ref(denoiser_of(built[1]))
    del built
    session._drop()
    assert model() is None and allocated(device) <= before


@each_device
@each_host
def test_no_memory_for_the_copy_of_the_stacks_input(device: str, host: str) -> None:
    testbed = model_on(device, host, kind="bf16")
    expected = sampled(testbed)

    def copy(this: Any, image: torch.Tensor) -> torch.Tensor:
        class Full(torch.Tensor):
            def clone(self, *args: Any, **kwargs: Any) -> torch.Tensor:
                run_out_of_memory(self.device)
                return self

        return original(this, image.as_subclass(Full))

    original: Any = StackForward._copy
    with patch.object(StackForward, "_copy", copy):
        got, report = sampled_with_cache(testbed, **SKIP_SOME["faithful"])
    assert any("no memory left" in warning for warning in report.warnings)
    assert "s" not in pattern_of(report) and torch.equal(got, expected)
