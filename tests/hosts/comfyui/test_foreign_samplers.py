"""Samplers of other packs are followed by what they do: wrappers, several evaluations a step."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import tiny_models
import torch
from sampling import SKIP_NONE, cached, report_of

from benchmarks.foreign import midpoint, shifted

pytestmark = pytest.mark.usefixtures("comfy")
STEPS = 20


@pytest.fixture(scope="module")
def sd3() -> Any:
    return tiny_models.build("sd3")


def own_levels(
    model: Any, x: Any, sigmas: Any, extra_args: Any = None, callback: Any = None, **more: Any
) -> Any:
    """A method that takes only the ends of the schedule."""
    ones = x.new_ones(x.shape[0])
    levels = torch.linspace(float(sigmas[0]), float(sigmas[-1]), 16)
    for now, following in pairwise(levels):
        x = x + (x - model(x, now * ones, **extra_args)) / now * (following - now)
    return x


def run(model: Any, function: Any, **options: Any) -> torch.Tensor:
    import comfy.sample
    import comfy.samplers

    solver = comfy.samplers.KSAMPLER(function, extra_options=options)
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", STEPS)
    start = tiny_models.latent("sd3", 1)
    noise = comfy.sample.prepare_noise(start, 1)
    conds = [tiny_models.cond("sd3", number) for number in (1, 2)]
    with torch.inference_mode():
        result: torch.Tensor = comfy.sample.sample_custom(
            model, noise, 3.0, solver, sigmas, *conds, start, disable_pbar=True, seed=1
        )
    return result


def wrapped(name: str) -> dict[str, Any]:
    import comfy.samplers

    return {"inner": comfy.samplers.sampler_object(name)}


def difference(got: torch.Tensor, native: torch.Tensor) -> float:
    return float((got - native).abs().mean() / native.abs().mean())


@pytest.mark.parametrize("inner", ["euler", "dpmpp_2m", "euler_ancestral"])
@pytest.mark.parametrize(
    "share",
    [lambda progress: 0.1, lambda progress: 0.1 * (progress > 0.3), lambda progress: -0.05],
    ids=["lower", "lower later", "higher"],
)
def test_a_wrapper_that_shifts_the_levels_is_counted(
    sd3: Any, inner: str, share: Callable[[float], float]
) -> None:
    function, options = shifted(share), wrapped(inner)
    native = run(sd3, function, **options)
    never, _ = cached(sd3, SKIP_NONE, mode="forecast")
    assert torch.equal(run(never, function, **options), native)
    noisy = inner == "euler_ancestral"
    clone, handle = cached(sd3, 3.0 if noisy else 1.0, mode="forecast")
    got = run(clone, function, **options)
    report = report_of(handle)
    assert report.skipped > 0 and not report.warnings
    assert [record.step for record in report.records] == list(range(STEPS))
    assert [record.sigma for record in report.records] == pytest.approx(report.sigmas[:-1])
    assert difference(got, native) < (0.4 if noisy else 0.1)


def test_a_method_of_two_evaluations_is_followed(sd3: Any) -> None:
    native = run(sd3, midpoint)
    clone, handle = cached(sd3, 1.0, mode="forecast")
    got = run(clone, midpoint)
    report = report_of(handle)
    assert report.skipped > 0 and not report.warnings and len(report.records) == 2 * STEPS
    assert [record.step for record in report.records] == [s for s in range(STEPS) for _ in "ab"]
    assert difference(got, native) < 0.1


@pytest.mark.parametrize("inner", ["heun", "dpm_2"])
def test_shifted_levels_of_several_evaluations_are_computed(sd3: Any, inner: str) -> None:
    native = run(sd3, shifted(lambda progress: 0.1), **wrapped(inner))
    clone, handle = cached(sd3, 2.0, mode="forecast")
    assert torch.equal(run(clone, shifted(lambda progress: 0.1), **wrapped(inner)), native)
    report = report_of(handle)
    assert report.skipped == 0
    assert "to which the schedule does not lead" in report.warnings[0]


def test_a_method_with_levels_of_its_own_is_computed(sd3: Any) -> None:
    native = run(sd3, own_levels)
    clone, handle = cached(sd3, 2.0, mode="forecast")
    assert torch.equal(run(clone, own_levels), native)
    report = report_of(handle)
    assert report.skipped == 0
    assert "to which the schedule does not lead" in report.warnings[0]


def test_the_same_run_again_gives_the_same(sd3: Any) -> None:
    clone, _ = cached(sd3, 1.0, mode="forecast")
    first = run(clone, shifted(lambda progress: 0.1), **wrapped("euler"))
    assert torch.equal(run(clone, shifted(lambda progress: 0.1), **wrapped("euler")), first)
