"""Streams, threads and several devices."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from on_device import (
    SKIP_SOME,
    each_device,
    each_host,
    each_mode,
    model_on,
    own_stream,
    pattern_of,
    sampled_with_cache,
)

from benchmarks.testbeds import DIFFUSERS, Testbed

pytestmark = pytest.mark.usefixtures("comfy")


def two_cuda_devices() -> Any:
    few = torch.cuda.is_available() and torch.cuda.device_count() < 2
    skip = pytest.mark.skipif(few, reason="there is one CUDA device")
    return pytest.param("cuda:0", "cuda:1", marks=[pytest.mark.cuda, skip])


@each_device
@each_host
@each_mode
@pytest.mark.parametrize("place", ["device", "cpu"])
def test_another_stream_changes_nothing(device: str, host: str, mode: str, place: str) -> None:
    testbed = model_on(device, host, kind="bf16")
    config = {**SKIP_SOME[mode], "cache_device": place}
    expected, before = sampled_with_cache(testbed, **config)
    with own_stream(device):
        got, report = sampled_with_cache(testbed, **config)
    assert report.skipped and pattern_of(report) == pattern_of(before)
    assert torch.equal(got, expected)


def in_threads(testbeds: dict[str, Testbed], **config: Any) -> dict[str, Any]:
    """What the testbeds sample at the same time, each in a thread and a stream of its own."""
    results: dict[str, Any] = {}
    together = threading.Barrier(len(testbeds))

    def sampling(name: str, testbed: Testbed) -> None:
        device = next(next(iter(testbed.middle_layers.values())).parameters()).device
        with own_stream(str(device)):
            together.wait(timeout=60)
            results[name] = sampled_with_cache(testbed, **config)

    threads = [threading.Thread(target=sampling, args=item) for item in testbeds.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.keys() == testbeds.keys(), "one has failed"
    return results


@each_device
@each_mode
def test_pipelines_in_streams_of_their_own_stay_apart(device: str, mode: str) -> None:
    testbeds = {
        name: model_on(device, DIFFUSERS, name, kind="bf16") for name in ("flux1", "wan21-1.3b")
    }
    alone = {name: sampled_with_cache(each, **SKIP_SOME[mode]) for name, each in testbeds.items()}
    for name, (latent, report) in in_threads(testbeds, **SKIP_SOME[mode]).items():
        expected, before = alone[name]
        assert report.skipped and pattern_of(report) == pattern_of(before)
        assert torch.equal(latent, expected)


@pytest.mark.parametrize(("first", "second"), [("cpu", "cpu"), two_cuda_devices()])
@each_host
@each_mode
def test_the_second_device_is_not_the_current_one(
    first: str, second: str, host: str, mode: str
) -> None:
    """Its work is timed by its own queue, and what is cached stays on it."""
    expected, before = sampled_with_cache(model_on(first, host, kind="fp32"), **SKIP_SOME[mode])
    got, report = sampled_with_cache(model_on(second, host, kind="fp32"), **SKIP_SOME[mode])
    assert pattern_of(report) == pattern_of(before) and report.bytes_held == before.bytes_held
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
    assert all(record.seconds for record in report.records)


@pytest.mark.parametrize(("first", "second"), [("cpu", "cpu"), two_cuda_devices()])
@each_mode
def test_two_devices_at_the_same_time(first: str, second: str, mode: str) -> None:
    testbeds = {
        "first": model_on(first, DIFFUSERS, kind="bf16"),
        "second": model_on(second, DIFFUSERS, kind="bf16"),
    }
    results = in_threads(testbeds, **SKIP_SOME[mode])
    (one, before), (other, report) = results["first"], results["second"]
    assert report.skipped and pattern_of(report) == pattern_of(before)
    torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)
