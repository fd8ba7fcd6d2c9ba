"""What diffusers pipelines in half precision tell the engine of their rounding errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import tiny_pipelines
import torch
from pipeline_sampling import report_of
from tiny_pipelines import TINY, generate

from teacache.engine.forward import PredictionForward
from teacache.hosts.diffusers.enable import teacache

STEPS, SCALE = 8, 4.0
GUIDANCE = {"sd3": {"guidance_scale": SCALE}, "wan21": {"guidance_scale": SCALE}}
"""Pipelines with both branches in one batch, and with a call for each."""


def told(
    pipe: Any, name: str, monkeypatch: pytest.MonkeyPatch, **config: Any
) -> list[float | None]:
    """The rounding errors that the computed steps of a run told."""
    errors: list[float | None] = []
    observe = PredictionForward.observe

    def observing(
        self: PredictionForward, value: Any, origin: Any = None, rounding: Any = None
    ) -> Any:
        errors.append(None if rounding is None else float(rounding))
        return observe(self, value, origin, rounding)

    inputs = {
        key: value.to(pipe.dtype)
        for key, value in TINY[name].inputs().items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    with monkeypatch.context() as patch, teacache(pipe, 2.0, **config) as handle:
        patch.setattr(PredictionForward, "observe", observing)
        generate(pipe, name, steps=STEPS, **inputs, **GUIDANCE.get(name, {}))
    report = report_of(handle)
    assert not report.warnings and len(errors) == report.computed
    return errors


@pytest.mark.parametrize("way", ["prediction", "residual"])
@pytest.mark.parametrize("name", list(GUIDANCE))
def test_guidance_is_taken_into_account(
    name: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert TINY[name].guidance == ("one batch" if name == "sd3" else "two calls")
    pipe = tiny_pipelines.build(name)
    assert set(told(pipe, name, monkeypatch, cached=way)) == {None}
    errors = told(pipe.to(torch.bfloat16), name, monkeypatch, cached=way)
    expected = 2**-7 * math.hypot(SCALE, SCALE - 1)
    assert errors == pytest.approx([expected] * len(errors), rel=0.1)


def test_without_branches_the_error_is_that_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny_pipelines.build("flux1_distilled").to(torch.bfloat16)
    errors = told(pipe, "flux1_distilled", monkeypatch)
    assert errors == pytest.approx([2**-7] * len(errors))
