"""What the cache leaves alone on a device: off is bit-identical, and so is what is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from on_device import (
    SKIP_SOME,
    each_device,
    each_host,
    each_mode,
    each_type,
    model_on,
    pattern_of,
    sampled,
    sampled_with_cache,
)

from teacache.config import NEVER_SKIP

pytestmark = pytest.mark.usefixtures("comfy")


@each_device
@each_host
@each_type
def test_off_is_bit_identical(device: str, host: str, kind: str) -> None:
    testbed = model_on(device, host, kind=kind)
    expected = sampled(testbed)
    off, report = sampled_with_cache(testbed, rel_l1_thresh=0.0)
    assert expected.isfinite().all() and torch.equal(off, expected)
    assert report.skipped == 0
    assert torch.equal(sampled(testbed), expected), "nothing is left behind"


@each_device
@each_host
@pytest.mark.parametrize("name", ["flux1", "qwen_image", "sdxl", "wan21-1.3b"])
def test_a_run_that_skips_nothing_is_bit_identical(device: str, host: str, name: str) -> None:
    testbed = model_on(device, host, name, kind="bf16")
    expected = sampled(testbed, steps=5)
    for config in SKIP_SOME.values():
        settings: dict[str, Any] = {**config, "rel_l1_thresh": NEVER_SKIP}
        got, report = sampled_with_cache(testbed, steps=5, **settings)
        assert pattern_of(report) == "ccccc" and torch.equal(got, expected)


@each_device
@each_host
@each_mode
def test_steps_are_timed_on_the_device(device: str, host: str, mode: str) -> None:
    _, report = sampled_with_cache(model_on(device, host, kind="bf16"), **SKIP_SOME[mode])
    seconds = [record.seconds for record in report.records]
    assert report.skipped and all(each is not None and each > 0 for each in seconds)
    assert report.seconds is not None and sum(filter(None, seconds)) <= report.seconds * 1.01
