"""How often a run makes the host wait for the device, and where it never may."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from on_device import SKIP_SOME, each_device, each_host, each_mode, model_on, sampled_with_cache

from benchmarks.gpu.models import TINY
from benchmarks.gpu.reads import Forbidden, reads_of_evaluations, waits_of
from benchmarks.gpu.rows import Plan, reads_row
from teacache.engine.device import SigmaReader

pytestmark = pytest.mark.usefixtures("comfy")


@contextmanager
def as_on_a_device() -> Iterator[None]:
    """Reading a noise level makes the host wait, on the processor as well."""
    with patch.object(SigmaReader, "is_cheap", staticmethod(lambda timestep: False)):
        yield


@each_device
@each_host
@each_mode
@pytest.mark.parametrize("place", ["device", "cpu"])
def test_every_wait_is_counted(device: str, host: str, mode: str, place: str) -> None:
    """None is made by anything of ours but what counts them; copies to main memory make none."""
    testbed = model_on(device, host, kind="bf16")
    reads = reads_of_evaluations(torch.device(device), "teacache")
    with as_on_a_device(), reads.watching():
        _, report = sampled_with_cache(testbed, cache_device=place, **SKIP_SOME[mode])
    assert report.skipped and len(reads.evaluations) == len(report.records)
    allowed = {"teacache.engine.device", "teacache.hosts.diffusers.reads"}
    assert {name.partition(" line ")[0] for name in reads.ours} <= allowed
    assert reads.ours.total() <= reads.counted
    for seen in reads.evaluations:
        assert sum(count for place, count in seen.items() if place.startswith("teacache.")) <= 3


@each_device
@each_host
@pytest.mark.parametrize("name", ["flux1", "sdxl", "wan21-1.3b"])
def test_skips_that_promise_it_never_wait(device: str, host: str, name: str) -> None:
    testbed = model_on(device, host, name, kind="bf16")
    row = reads_row(testbed, TINY[name], Plan(8, 1, "eager"))
    forecast = row["reads"]["forecast"]
    assert forecast["promised_none"] and forecast["broken"] == ""
    if host == "comfyui" and name.startswith("wan"):  # whose own layers run in such a skip
        residual = row["reads"]["residual"]
        assert residual["promised_none"] and "teacache." not in residual["broken"]


@each_device
def test_a_forbidden_wait_is_noticed(device: str) -> None:
    """So that the tests above can fail."""
    value: Any = torch.ones(2, device=device)
    code = compile("value.tolist()", "here", "exec")
    with pytest.raises(RuntimeError, match="called a synchronizing"), Forbidden(value.device):
        exec(code, {"value": value, "__name__": "teacache.somewhere"})
    with Forbidden(value.device):
        value.add_(1)


@each_device
def test_waits_are_noted_by_place(device: str) -> None:
    value = torch.ones(2, device=device)
    with waits_of(value.device) as waits:
        value.add_(1)
        value.tolist()
    (place,) = waits.seen
    assert "test_waits" in place
