"""Models whose blocks are not known: UNets of ComfyUI's own classes, and wrapped transformers."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
import torch
from sampling import SKIP_NONE, report_of
from torch import nn

from teacache.config import TeaCacheConfig

pytestmark = pytest.mark.usefixtures("comfy")
STEPS = 20
ONLY = "forecast only: the faithful mode needs to know the blocks"


def run(model: Any, sampler: str = "euler", scheduler: str = "normal", **more: Any) -> torch.Tensor:
    import comfy.sample

    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(1, 4, 8, 8, generator=generator)
    pooled = torch.randn(1, 1280, generator=generator)

    def cond() -> list[Any]:
        text = torch.randn(1, 7, 64, generator=generator)
        return [[text, {"pooled_output": pooled, "width": 64, "height": 64}]]

    result: torch.Tensor = comfy.sample.sample(
        model, noise, STEPS, 5.0, sampler, scheduler, cond(), cond(), torch.zeros_like(noise),
        disable_pbar=True, seed=3, **more,
    )  # fmt: skip
    return result


def cached(model: Any, **config: Any) -> tuple[Any, Any]:
    from teacache.hosts.comfyui.patch import apply_teacache

    return apply_teacache(model, TeaCacheConfig(**{"rel_l1_thresh": 0.5, **config}))


@pytest.fixture(scope="module", params=["SD15 EPS", "SD15 V_PREDICTION", "SDXL EPS"])
def model(request: pytest.FixtureRequest, comfy: Any) -> Any:
    return tiny_models.unet(*request.param.split())


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "euler_ancestral", "lcm"])
def test_a_unet_is_forecast(model: Any, sampler: str) -> None:
    native = run(model, sampler)
    never, _ = cached(model, rel_l1_thresh=SKIP_NONE)
    assert torch.equal(run(never, sampler), native)
    noisy = sampler in ("euler_ancestral", "lcm")
    clone, handle = cached(model, rel_l1_thresh=0.2 if noisy else 0.5)
    got = run(clone, sampler)
    report = report_of(handle)
    assert report.method == "forecast" and report.skipped > 0 and not report.warnings
    assert (got - native).abs().mean() < (0.3 if noisy else 0.15) * native.abs().mean()


def test_what_the_node_says(model: Any) -> None:
    _, handle = cached(model)
    name, mode, *_, last = handle.describe().split(" · ")
    assert (name, mode, last) == ("UNetModel", "forecast", ONLY)
    _, preset = cached(model, rel_l1_thresh=None, preset="2.0x")
    assert preset.describe().endswith(ONLY)


def test_the_faithful_mode_is_not_to_be_had(model: Any) -> None:
    clone, handle = cached(model, mode="faithful")
    run(clone)
    report = report_of(handle)
    assert report.method == "forecast" and report.skipped > 0
    assert report.warnings == [f"F{ONLY[1:]}."]


def test_presets_and_plans_keep_their_number(model: Any) -> None:
    clone, handle = cached(model, rel_l1_thresh=None, preset="1.5x")
    run(clone)
    report = report_of(handle)
    assert report.wanted_steps == 13 and abs(report.computed_steps - 13) <= 1


def test_only_samplers_that_choose_their_levels_compute_every_step(model: Any) -> None:
    native = run(model, "dpm_fast")
    clone, handle = cached(model)
    assert torch.equal(run(clone, "dpm_fast"), native)
    assert report_of(handle).skipped == 0


def test_a_wrapped_transformer_is_forecast(comfy: Any) -> None:
    """As packs that quantise wrap theirs: another class, the transformer inside."""
    from sampling import sample

    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.model, self.dtype = inner, torch.float32

        def forward(self, *args: Any, **options: Any) -> Any:
            return self.model(*args, **options)

    patcher = tiny_models.build("sd3")
    native = sample(patcher, "sd3", steps=STEPS)
    patcher.model.diffusion_model = Wrapped(patcher.model.diffusion_model)
    clone, handle = cached(patcher)
    got = sample(clone, "sd3", steps=STEPS)
    report = report_of(handle)
    assert report.family_name == "Wrapped" and report.skipped > 0 and not report.warnings
    assert (got - native).abs().mean() < 0.1 * native.abs().mean()
