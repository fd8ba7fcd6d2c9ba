"""Every kind of guidance of the benchmark runs with the cache, near the picture without it."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
import torch
from sampling import SKIP_NONE, cached, report_of

from benchmarks.guidances import Guidance, guidances

pytestmark = pytest.mark.usefixtures("comfy")
STEPS = 16
NAMES = (
    "skip-layer guidance (STG-R)",
    "perturbed attention (PAG, STG-A)",
    "normalised attention (NAG)",
    "guidance interval, by a function",
    "guidance interval, by a guider",
    "scale that falls from 7 to 1, by a guider",
    "Perp-Neg",
)


@pytest.fixture(scope="module")
def sd3() -> Any:
    return tiny_models.build("sd3")


def run(model: Any, guidance: Guidance) -> torch.Tensor:
    import comfy.sample
    import comfy.samplers

    guider = (guidance.guider or comfy.samplers.CFGGuider)(model)
    branches = 2 if guidance.negative is None else 3
    guider.set_conds(*(tiny_models.cond("sd3", number + 1) for number in range(branches)))
    guider.set_cfg(3.0)
    latent = tiny_models.latent("sd3", 1)
    noise = comfy.sample.prepare_noise(latent, 1)
    euler = comfy.samplers.sampler_object("euler")
    levels = torch.linspace(1, 0, STEPS + 1)
    with torch.inference_mode():
        result: torch.Tensor = guider.sample(
            noise, latent, euler, levels, disable_pbar=True, seed=1
        )
    return result


@pytest.mark.parametrize("name", NAMES)
def test_it_is_near_the_picture_without_the_cache(sd3: Any, name: str) -> None:
    guidance = guidances()[name]
    native = run(guidance.patched(sd3), guidance)
    never, _ = cached(guidance.patched(sd3), SKIP_NONE, mode="forecast")
    assert torch.equal(run(never, guidance), native)
    clone, handle = cached(guidance.patched(sd3), 1.0, mode="forecast")
    got = run(clone, guidance)
    report = report_of(handle)
    assert report.skipped > 2 and not report.warnings
    assert (got - native).abs().mean() < 0.05 * native.abs().mean()


@pytest.mark.parametrize("name", NAMES)
def test_it_changes_the_picture(sd3: Any, name: str) -> None:
    assert not torch.equal(
        run(sd3, Guidance()), run(guidances()[name].patched(sd3), guidances()[name])
    )
