"""Counted bytes of the cache: those that reports name, and the tables of docs/gpu.md."""

from __future__ import annotations

from typing import Any

import pytest
from on_device import HOSTS, model_on, sampled_with_cache
from paths import ROOT

from benchmarks.gpu.cached_bytes import (
    FAITHFUL,
    FORECAST,
    METHODS,
    RESIDUALS,
    SIZES,
    Method,
    held_bytes,
    held_table,
    renewed,
    tables,
)
from benchmarks.gpu.models import REAL, TINY
from benchmarks.testbeds import COMFYUI, DIFFUSERS

SETTINGS: dict[str, dict[str, Any]] = {
    FORECAST.name: {"mode": "forecast"},
    FAITHFUL.name: {"mode": "faithful", "coefficients": (1e-6, 0.0)},
    RESIDUALS.name: {"mode": "forecast", "cached": "residual"},
}


@pytest.mark.parametrize("name", ["flux1", "qwen_image", "wan21-1.3b", "sdxl"])
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_counted_bytes_are_what_a_run_holds(
    comfy: Any, name: str, host: str, method: Method
) -> None:
    size = TINY[name]
    if not size.has_blocks and method is not FORECAST:
        pytest.skip("a UNet's residuals are not cached")
    testbed = model_on("cpu", host, name, kind="bf16")
    _, report = sampled_with_cache(testbed, rel_l1_thresh=90.0, max_skip=2, **SETTINGS[method.name])
    assert report.skipped and report.bytes_held == held_bytes(size, host, method)


def test_the_published_sizes_by_hand() -> None:
    flux, wan = REAL["flux1"], REAL["wan21-14b"]
    assert held_bytes(flux, COMFYUI, FAITHFUL) == 2 * 4096 * 3072 * 2
    assert held_bytes(flux, COMFYUI, FORECAST) == 3 * 16 * 128 * 128 * 4
    assert held_bytes(flux, DIFFUSERS, FORECAST) == 16 * 128 * 128 * (2 * 2 + 4)
    assert held_bytes(wan, COMFYUI, FAITHFUL) == 2 * 14040 * 5120 * 2
    film = 16 * 9 * 60 * 104
    assert held_bytes(wan, COMFYUI, RESIDUALS) == 2 * 2 * 14040 * 5120 * 2 + 3 * film * 4


def test_the_page_has_the_tables_as_they_are_counted() -> None:
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    assert renewed(page) == page, "python -m benchmarks.gpu.cached_bytes --write"
    assert tables() in page
    assert held_table().count("\n") == len(SIZES) + 1
