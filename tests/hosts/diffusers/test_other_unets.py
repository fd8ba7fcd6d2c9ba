"""Stable Cascade and Kandinsky 2.2: UNets of other classes, inputs and noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

import tiny_unet_pipelines as tiny
from pipeline_sampling import SKIP_ALL, SKIP_NONE, report_of

from teacache.hosts.diffusers.enable import teacache

STEPS = 12


def build(name: str) -> tuple[Any, dict[str, Any]]:
    if name in ("prior", "decoder"):
        return tiny.cascade(name)
    variance = {"variance_type": "learned_range"} if name == "kandinsky, variance" else {}
    made = "DDIMScheduler" if name == "kandinsky, ddim" else "DDPMScheduler"
    return tiny.kandinsky(tiny.scheduler(made, clip_sample=False, **variance))


NAMES = ("prior", "decoder", "kandinsky", "kandinsky, variance", "kandinsky, ddim")


@pytest.mark.parametrize("name", NAMES)
def test_it_is_forecast(name: str) -> None:
    pipe, inputs = build(name)
    pipe.set_progress_bar_config(disable=True)

    def run() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        out = pipe(**inputs, num_inference_steps=STEPS, generator=generator, return_dict=False)
        return torch.as_tensor(out[0])

    native = run()
    assert torch.isfinite(native).all()
    for threshold in (0.0, SKIP_NONE):
        with teacache(pipe, threshold) as handle:
            assert torch.equal(run(), native)
    with teacache(pipe, SKIP_ALL) as handle:
        first = run()
        assert torch.equal(run(), first)
    report = report_of(handle)
    assert report.method == "forecast" and not report.warnings
    assert len(report.records) == report.steps == STEPS and report.skipped >= 3
    assert report.sigmas[-1] == 0.0 and torch.isfinite(first).all()
    assert "forecast only" in handle.describe()
