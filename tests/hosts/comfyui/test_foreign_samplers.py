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
from teacache.report import Reason

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
    import comfy.samplers

    return solve(model, comfy.samplers.KSAMPLER(function, extra_options=options))


def solve(model: Any, solver: Any, conds: Any = None) -> torch.Tensor:
    import comfy.sample
    import comfy.samplers

    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", STEPS)
    start = tiny_models.latent("sd3", 1)
    noise = comfy.sample.prepare_noise(start, 1)
    conds = conds or [tiny_models.cond("sd3", number) for number in (1, 2)]
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


SHARES = {
    "lower": lambda progress: 0.1,
    "lower later": lambda progress: 0.1 * (progress > 0.3),
    "higher": lambda progress: -0.05,
}
NOISY = ("euler_ancestral", "dpmpp_sde")


@pytest.mark.parametrize("share", SHARES.values(), ids=SHARES)
@pytest.mark.parametrize("inner", ["euler", "dpmpp_2m", "euler_ancestral"])
def test_a_wrapper_that_shifts_the_levels_is_followed(
    sd3: Any, inner: str, share: Callable[[float], float]
) -> None:
    function, options = shifted(share), wrapped(inner)
    native = run(sd3, function, **options)
    never, _ = cached(sd3, SKIP_NONE, mode="forecast")
    assert torch.equal(run(never, function, **options), native)
    noisy = inner in NOISY
    clone, handle = cached(sd3, 1.5 if noisy else 1.0, mode="forecast")
    got = run(clone, function, **options)
    report = report_of(handle)
    assert report.skipped > 0 and not report.warnings
    assert [record.step for record in report.records] == list(range(STEPS))
    assert [record.sigma for record in report.records] == pytest.approx(report.sigmas[:-1])
    assert difference(got, native) < (0.4 if noisy else 0.1)


@pytest.mark.parametrize("share", SHARES.values(), ids=SHARES)
@pytest.mark.parametrize("inner", ["heun", "dpm_2", "dpmpp_sde"])
def test_so_is_one_around_a_sampler_of_several_evaluations(
    sd3: Any, inner: str, share: Callable[[float], float]
) -> None:
    """Each evaluation is counted as it is without the wrapper."""
    import comfy.samplers

    alone, alone_handle = cached(sd3, SKIP_NONE, mode="forecast")
    run(alone, comfy.samplers.sampler_object(inner).sampler_function)
    expected = [(record.step, record.sigma) for record in report_of(alone_handle).records]
    function, options = shifted(share), wrapped(inner)
    native = run(sd3, function, **options)
    clone, handle = cached(sd3, 1.0, mode="forecast")
    got = run(clone, function, **options)
    report = report_of(handle)
    assert report.skipped > 0 and not report.warnings
    seen = [(record.step, record.sigma) for record in report.records]
    assert [step for step, _ in seen] == [step for step, _ in expected]
    assert [sigma for _, sigma in seen] == pytest.approx([sigma for _, sigma in expected])
    assert difference(got, native) < (0.4 if inner in NOISY else 0.1)


def test_the_innermost_sampler_counts_and_the_options_stay(sd3: Any) -> None:
    import comfy.samplers

    inner = comfy.samplers.KSAMPLER(shifted(lambda progress: 0.05), wrapped("heun"))
    function, options = shifted(lambda progress: 0.1), {"inner": inner}
    solver = comfy.samplers.KSAMPLER(function, options)
    clone, handle = cached(sd3, 1.0, mode="forecast")
    solve(clone, solver)
    report = report_of(handle)
    assert report.skipped > 0 and not report.warnings
    assert {record.sigma for record in report.records} == set(report.sigmas[:-1])
    assert solver.extra_options is options and options == {"inner": inner}
    assert inner.extra_options["inner"].sampler_function.__module__.startswith("comfy.")


def test_a_cond_begins_at_the_level_that_the_model_is_shown(sd3: Any) -> None:
    """ComfyUI decides by the level that the model is shown which conds are in force."""
    import comfy.samplers

    solver = comfy.samplers.KSAMPLER(shifted(lambda progress: 0.2), wrapped("euler"))
    sampling = sd3.get_model_object("model_sampling")
    levels = comfy.samplers.calculate_sigmas(sampling, "simple", STEPS).tolist()
    boundary = 0.9 * levels[STEPS // 2]
    percent = next(p / 1e4 for p in range(10001) if sampling.percent_to_sigma(p / 1e4) < boundary)
    conds = [tiny_models.cond("sd3", number) for number in (1, 2)]
    conds[0] = [
        [conds[0][0][0], {**conds[0][0][1], "end_percent": percent}],
        [-conds[0][0][0], {**conds[0][0][1], "start_percent": percent}],
    ]
    clone, handle = cached(sd3, 90.0, mode="forecast")
    solve(clone, solver, conds)
    records = report_of(handle).records
    begins = next(step for step, level in enumerate(levels) if 0.8 * level < boundary)
    assert begins < STEPS // 2 and records[begins].reason is Reason.MISMATCH


def test_what_a_wrapper_evaluates_besides_is_at_the_level_shown(sd3: Any) -> None:
    """A second evaluation that the inner sampler does not know of: no level is taken for it."""

    def twice(model: Any, x: Any, sigmas: Any, *, inner: Any, **more: Any) -> Any:
        class Twice:
            inner_model = model.inner_model

            def __call__(self, x: Any, sigma: Any, **options: Any) -> Any:
                return (model(x, sigma, **options) + model(x, sigma * 0.5, **options)) / 2

        return inner.sampler_function(Twice(), x, sigmas, **more)

    native = run(sd3, twice, **wrapped("euler"))
    clone, handle = cached(sd3, 2.0, mode="forecast")
    assert torch.equal(run(clone, twice, **wrapped("euler")), native)
    assert "to which the schedule does not lead" in report_of(handle).warnings[0]


def test_a_method_of_two_evaluations_is_followed(sd3: Any) -> None:
    native = run(sd3, midpoint)
    clone, handle = cached(sd3, 1.0, mode="forecast")
    got = run(clone, midpoint)
    report = report_of(handle)
    assert report.skipped > 0 and not report.warnings and len(report.records) == 2 * STEPS
    assert [record.step for record in report.records] == [s for s in range(STEPS) for _ in "ab"]
    assert difference(got, native) < 0.1


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
