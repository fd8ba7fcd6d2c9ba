"""What ComfyUI's half-precision models tell the engine of their rounding errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import tiny_models
import torch
from sampling import cached, report_of, sample

from teacache.engine.forward import PredictionForward

pytestmark = pytest.mark.usefixtures("comfy")
STEPS, CFG = 8, 3.0


@pytest.fixture(scope="module")
def model(comfy: Any) -> Any:
    return tiny_models.build("sd3")


def casting(dtype: torch.dtype) -> Any:
    """The model as ComfyUI runs it where its weights are cast to `dtype` for computing."""
    cast = tiny_models.build("sd3")
    cast.model.to(dtype).manual_cast_dtype = dtype
    return cast


def told(model: Any, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[float | None]:
    """The rounding errors that the computed steps of a run told."""
    errors: list[float | None] = []
    observe = PredictionForward.observe

    def observing(
        self: PredictionForward, value: Any, origin: Any = None, rounding: Any = None
    ) -> Any:
        errors.append(None if rounding is None else float(rounding))
        return observe(self, value, origin, rounding)

    config = {name: changes.pop(name) for name in ("cached",) if name in changes}
    with monkeypatch.context() as patch:
        patch.setattr(PredictionForward, "observe", observing)
        clone, handle = cached(model, 2.0, mode="forecast", **config)
        sample(clone, "sd3", steps=STEPS, **{"cfg": CFG, **changes})
    report = report_of(handle)
    assert not report.warnings and len(errors) == report.computed
    return errors


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", ["prediction", "residual"])
def test_guidance_is_taken_into_account(
    model: Any, dtype: torch.dtype, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = told(casting(dtype), monkeypatch, cached=way)
    expected = torch.finfo(dtype).eps * math.hypot(CFG, CFG - 1)
    assert errors == pytest.approx([expected] * len(errors), rel=0.02)


def test_without_guidance_the_error_is_that_of_the_model(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = told(casting(torch.bfloat16), monkeypatch, cfg=1.0)
    assert errors == pytest.approx([2**-7] * len(errors))


def test_of_full_precision_and_of_denoised_latents_nothing_is_told(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(told(model, monkeypatch)) == {None}
    noisy = told(casting(torch.bfloat16), monkeypatch, sampler="euler_ancestral")
    assert set(noisy) == {None}
