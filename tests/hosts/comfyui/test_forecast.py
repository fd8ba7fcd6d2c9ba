"""The forecast mode in ComfyUI: a skip runs nothing, and equals arithmetic by hand."""

from __future__ import annotations

import gc
import math
import weakref
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from sampling import SKIP_NONE, cached, report_of, sample, spying

from teacache.engine.decision import BranchState, PassState
from teacache.engine.forward import RELIABLE_ERROR
from teacache.engine.run import Run
from teacache.report import Reason

pytestmark = pytest.mark.usefixtures("comfy")
THRESHOLD = 1.0
"""At which the tiny model skips about half of its steps."""


@pytest.fixture(scope="module")
def sd3(comfy: Any) -> Any:
    return tiny_models.build("sd3")


def forecast(model: Any, threshold: float = THRESHOLD, **config: Any) -> tuple[Any, Any]:
    return cached(model, threshold, mode="forecast", **config)


def decisions(handle: Any) -> list[tuple[bool, Reason]]:
    return [(record.skipped, record.reason) for record in report_of(handle).records]


@pytest.mark.parametrize("name", ["sd3", "flux1", "qwen_image", "wan21", "hunyuan_video"])
def test_a_skip_runs_nothing_of_the_model(name: str) -> None:
    model = tiny_models.build(name)
    clone, handle = forecast(model, threshold=30.0)
    with spying(model) as spy:
        sample(clone, name, steps=16)
    report = report_of(handle)
    assert report.skipped >= 4
    assert (report.method, report.cached) == ("forecast", "prediction")
    assert len(spy.per_call) == report.computed, "one batched call for each computed step"
    assert spy.skipped_calls == 0, "what is called is computed"


@pytest.mark.parametrize("name", ["sd3", "flux1", "wan21"])
def test_with_residuals_a_skip_runs_all_but_the_blocks(name: str) -> None:
    """Decided as without them: by the error of the derivative after guidance, for all branches."""
    model = tiny_models.build(name)
    plain, plain_handle = forecast(model, threshold=30.0)
    sample(plain, name, steps=16)
    clone, handle = forecast(model, threshold=30.0, cached="residual")
    with spying(model) as spy:
        sample(clone, name, steps=16)
    report = report_of(handle)
    assert report.cached == "residual" and report.skipped >= 4
    assert len(spy.per_call) == 16 and spy.skipped_calls == report.skipped
    first = next(record.step for record in report.records if record.skipped)
    for mine, theirs in zip(report.records[:first], report_of(plain_handle).records, strict=False):
        assert (mine.reason, mine.distance) == (theirs.reason, theirs.distance)
    mine, theirs = report.records[first], report_of(plain_handle).records[first]
    assert mine.distance == pytest.approx(theirs.distance), "of the same computed values"


@pytest.mark.parametrize("threshold", [0.0, SKIP_NONE])
@pytest.mark.parametrize("cached_value", ["prediction", "residual"])
def test_nothing_skipped_is_bit_identical(sd3: Any, threshold: float, cached_value: str) -> None:
    clone, handle = forecast(sd3, threshold, cached=cached_value)
    assert torch.equal(sample(clone, "sd3", steps=8), sample(sd3, "sd3", steps=8))
    assert report_of(handle).skipped == 0


def by_hand(
    noise: torch.Tensor, sigmas: list[float], computed: dict[int, torch.Tensor], corrects: bool
) -> dict[int, torch.Tensor]:
    """Euler's method over `sigmas`, damped lines where nothing is `computed`, in float64.

    computed: the denoised latent by step; the result is the latent that enters those steps, and
    the last one. Lines are followed as far as they were right before. What they missed is made
    good at the next computed step, as far as that one was predicted well: by integrating the
    parabola through the values before and after.
    """
    x = noise.double() * sigmas[0]
    path: dict[int, torch.Tensor] = {}
    known: list[tuple[float, torch.Tensor]] = []
    missed: list[tuple[float, float, torch.Tensor]] = []
    part = 0.5
    for step, (sigma, following) in enumerate(pairwise(sigmas)):
        length = following - sigma
        if step not in computed:
            (s0, v0), (s1, v1) = known[-2:]
            used = v1 + part * (sigma - s1) * (v1 - v0) / (s1 - s0)
            missed.append((sigma, length, used))
            x = x + length * used
            continue
        path[step] = x
        value = (x - computed[step].double()) / sigma
        x = x + length * value
        if corrects and missed:
            (s0, v0), (s1, v1) = known[-2:]
            expected = v1 + part * (sigma - s1) * (v1 - v0) / (s1 - s0)
            error = (value - expected).abs().mean() / expected.abs().mean()
            nodes = [*known[-2:], (sigma, value)]
            levels = np.array([level for level, _ in nodes])
            values = torch.stack([v.flatten() for _, v in nodes]).numpy()
            parabola = np.polynomial.polynomial.polyfit(levels - sigma, values, len(nodes) - 1)
            for level, width, used in missed:
                after = np.polynomial.polynomial.polyval(level - sigma, parabola)
                after = torch.from_numpy(after).view_as(x)
                x = x + width * (after - used) / (1 + (error / RELIABLE_ERROR) ** 2)
        if len(known) > 1:
            (s0, v0), (s1, v1) = known[-2:]
            way = (sigma - s1) * (v1 - v0) / (s1 - s0)
            right = ((value - v1) * way).sum() / (way * way).sum()
            part = (part + min(max(right.item(), 0.0), 1.0)) / 2
        missed = []
        known.append((sigma, value))
    path[len(sigmas) - 1] = x
    return path


@pytest.mark.parametrize("sampler", ["euler", "ddim"])
def test_a_run_equals_arithmetic_by_hand(sd3: Any, sampler: str) -> None:
    clone, handle = forecast(sd3)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def see(args: dict[str, Any]) -> torch.Tensor:
        seen.append((args["input"].clone(), args["denoised"].clone()))
        return args["denoised"]

    clone.set_model_sampler_post_cfg_function(see)
    got = sd3.model.process_latent_in(sample(clone, "sd3", steps=20, sampler=sampler))
    report = report_of(handle)
    steps = [record.step for record in report.records if not record.skipped]
    assert len(seen) == 20 and report.skipped >= 5, "the function runs in skipped steps, too"
    denoised = {step: seen[step][1] for step in steps}
    entered = {step: seen[step][0] for step in steps} | {20: got}
    path = by_hand(noise_of("sd3"), report.sigmas, denoised, corrects=True)
    for step, latent in path.items():
        torch.testing.assert_close(entered[step].double(), latent, rtol=0, atol=2e-5)
    plain = by_hand(noise_of("sd3"), report.sigmas, denoised, corrects=False)
    apart = max((plain[step] - path[step]).abs().max().item() for step in path)
    assert apart > 1e-3, "the correction is no part of what is tested"


def noise_of(name: str) -> torch.Tensor:
    from comfy.sample import prepare_noise

    return prepare_noise(tiny_models.latent(name, 1), 1)


def test_the_error_rate_in_the_report_is_what_the_next_step_was_seen_to_miss(sd3: Any) -> None:
    """The first distance, from the first three predictions of the model."""
    clone, handle = forecast(sd3, SKIP_NONE)
    seen: list[torch.Tensor] = []
    clone.set_model_sampler_post_cfg_function(
        lambda args: (seen.append((args["input"] - args["denoised"]).clone()), args["denoised"])[1]
    )
    sample(clone, "sd3", steps=20)
    report = report_of(handle)
    s = report.sigmas
    v = [difference / sigma for difference, sigma in zip(seen, s, strict=False)]
    line = v[1] + 0.5 * (s[2] - s[1]) / (s[1] - s[0]) * (v[1] - v[0])  # half-way at first
    error = ((v[2] - line).abs().mean() / line.abs().mean()).item()
    rate = error / abs((s[2] - s[1]) * (s[2] - s[0]))
    odds = [math.log((1 - level) / level) for level in s[1:-1]]
    by_noise = abs(s[4] - s[3]) / ((s[0] - s[-1]) / 20)
    by_odds = abs(odds[3] - odds[2]) / ((odds[-1] - odds[0]) / 18)
    step = (by_noise + by_odds) / 2
    expected = rate * abs((s[3] - s[2]) * (s[3] - s[1])) * step
    assert report.records[3].distance == pytest.approx(expected, rel=1e-3)
    assert [r.reason for r in report.records[:4]] == [
        Reason.FIRST, Reason.ERROR_UNKNOWN, Reason.ERROR_UNKNOWN, Reason.OVER_THRESHOLD,
    ]  # fmt: skip


def test_the_second_run_equals_the_first_and_nothing_outlives_it(sd3: Any) -> None:
    clone, handle = forecast(sd3)
    first = sample(clone, "sd3", steps=16)
    assert torch.equal(sample(clone, "sd3", steps=16), first)
    gc.collect()
    left = [o for o in gc.get_objects() if isinstance(o, (Run, PassState, BranchState))]
    assert not left
    assert report_of(handle).bytes_held > 0


def test_memory_is_two_predictions_and_what_was_skipped(sd3: Any) -> None:
    clone, handle = forecast(sd3)
    latent = sample(clone, "sd3", steps=16)
    assert report_of(handle).bytes_held == 3 * latent.numel() * 4


@pytest.mark.parametrize(
    "sampler",
    [
        "euler_ancestral",
        "dpmpp_2m_sde",
        "dpmpp_3m_sde",
        "ddpm",
        "er_sde",
        "sa_solver",
        "res_multistep_ancestral",
        "dpm_2_ancestral",
        "dpmpp_sde",
        "seeds_2",
        "seeds_3",
        "sa_solver_pece",
    ],
)
def test_samplers_that_add_noise_are_forecast_by_the_denoised_latent(
    sd3: Any, sampler: str
) -> None:
    """The noise is the sampler's own: the same seed gives nearly the same picture."""
    native = sample(sd3, "sd3", steps=20, sampler=sampler)
    clone, handle = forecast(sd3, 1.0)
    got = sample(clone, "sd3", steps=20, sampler=sampler)
    report = report_of(handle)
    assert report.method == "forecast" and report.skipped > 0 and not report.warnings
    assert (got - native).abs().mean() < 0.4 * native.abs().mean()
    never, _ = forecast(sd3, SKIP_NONE)
    assert torch.equal(sample(never, "sd3", steps=20, sampler=sampler), native)


@pytest.mark.parametrize("sampler", ["dpm_fast", "dpm_adaptive"])
def test_a_sampler_that_chooses_its_levels_computes_every_step(sd3: Any, sampler: str) -> None:
    native = sample(sd3, "sd3", steps=8, sampler=sampler)
    clone, handle = forecast(sd3, 0.5)
    assert torch.equal(sample(clone, "sd3", steps=8, sampler=sampler), native)
    report = report_of(handle)
    assert report.skipped == 0 and "every step is computed" in report.warnings[0]


@pytest.mark.parametrize("option", ["s_churn", "eta"])
def test_an_option_that_adds_noise_counts(option: str) -> None:
    from comfy.samplers import ksampler

    from teacache.hosts.comfyui.samplers import sampler_traits

    assert sampler_traits(ksampler("euler", {option: 0.5})).adds_noise
    assert sampler_traits(ksampler("euler", {option: 0.0})).euler


def test_every_sampler_in_the_tables_is_one_of_comfyuis() -> None:
    """But for those that only newer versions have."""
    from comfy.k_diffusion import sampling as known

    from teacache.hosts.comfyui.samplers import KNOWN

    from comfy.extra_samplers import uni_pc  # isort: skip

    functions = {**vars(known), **vars(uni_pc)}
    lacking = {name for name in KNOWN if f"sample_{name}" not in functions}
    assert lacking <= {"exp_heun_2_x0", "exp_heun_2_x0_sde"}


@pytest.mark.parametrize(
    "sampler", ["dpmpp_2m", "lms", "ipndm", "deis", "res_multistep", "heun", "dpm_2", "uni_pc"]
)
def test_every_deterministic_sampler_keeps_its_picture(sd3: Any, sampler: str) -> None:
    clone, handle = forecast(sd3, 0.5)
    native = sample(sd3, "sd3", steps=20, sampler=sampler)
    got = sample(clone, "sd3", steps=20, sampler=sampler)
    report = report_of(handle)
    assert report.skipped > 0 and report.method == "forecast"
    assert (got - native).abs().mean() < 0.03 * native.abs().mean()


def test_levels_of_a_single_sampler_are_those_of_the_schedule(sd3: Any) -> None:
    from teacache.hosts.comfyui.samplers import ONE_EVAL_PER_STEP

    for sampler in ONE_EVAL_PER_STEP:
        clone, handle = forecast(sd3, SKIP_NONE)
        sample(clone, "sd3", steps=6, sampler=sampler)
        report = report_of(handle)
        seen = [record.sigma for record in report.records]
        assert seen == pytest.approx(report.sigmas[:-1], rel=1e-5), sampler


@pytest.mark.parametrize("part", ["timestep", "control"])
def test_a_phase_that_begins_or_ends_is_computed(sd3: Any, part: str) -> None:
    """A cond that ends half-way, with or without a ControlNet's own range."""
    from types import SimpleNamespace

    from teacache.hosts.comfyui.samplers import conditioning_boundaries, conditioning_phase

    if part == "control":
        control = SimpleNamespace(timestep_range=(0.9, 0.4), previous_controlnet=None)
        levels = conditioning_boundaries({"positive": [{"control": control}], "negative": [{}]})
        assert levels == [0.4, 0.9]
        assert len({conditioning_phase(levels, sigma) for sigma in (0.95, 0.9, 0.5, 0.4, 0.3)}) == 5
        return
    early, late = (tiny_models.cond("sd3", seed) for seed in (1, 3))
    early[0][1]["end_percent"] = 0.5
    late[0][1]["start_percent"] = 0.5
    clone, handle = forecast(sd3, 50.0)
    sample(clone, "sd3", steps=20, positive=early + late)
    report = report_of(handle)
    middle = [float(sd3.get_model_object("model_sampling").percent_to_sigma(0.5))]
    phases = [conditioning_phase(middle, record.sigma) for record in report.records]
    crossings = [i + 1 for i, (one, other) in enumerate(pairwise(phases)) if one != other]
    assert crossings and report.skipped
    for crossing in crossings:
        assert report.records[crossing].reason is Reason.MISMATCH
    assert not any(record.skipped for record in report.records[crossings[-1] :][:3])


def test_an_interrupted_run_frees_everything(sd3: Any) -> None:
    from comfy.model_management import InterruptProcessingException

    clone, handle = forecast(sd3)
    held: list[Any] = []

    def stop(args: dict[str, Any]) -> torch.Tensor:
        held.extend(weakref.ref(o) for o in gc.get_objects() if isinstance(o, PassState))
        if len(held) > 6:
            raise InterruptProcessingException
        return args["denoised"]

    stopping = clone.clone()
    stopping.set_model_sampler_post_cfg_function(stop)
    with pytest.raises(InterruptProcessingException):
        sample(stopping, "sd3", steps=20)
    gc.collect()
    assert held and all(ref() is None for ref in held)
    assert report_of(handle).outcome == "interrupted"
    assert torch.isfinite(sample(clone, "sd3", steps=8)).all()


def test_batches_take_the_largest_error(sd3: Any) -> None:
    """One row alone skips at least as often as in company."""
    clone, handle = forecast(sd3)
    sample(clone, "sd3", steps=20, batch=3)
    together = report_of(handle)
    sample(clone, "sd3", steps=20, batch=1)
    alone = report_of(handle)
    assert together.records[3].distance >= 0.999 * alone.records[3].distance
