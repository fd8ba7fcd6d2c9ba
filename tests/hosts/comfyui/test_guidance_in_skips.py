"""Guidance that is more than a weighted sum runs in skipped steps too, on predicted branches."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
import torch
from sampling import SKIP_NONE, cached, report_of, sample

from teacache.report import Reason

pytestmark = pytest.mark.usefixtures("comfy")
STEPS = 20
CFG_PP = {"euler_cfg_pp": 0.6, "euler_ancestral_cfg_pp": 1.2}
"""Random weights make coarse predictions: at these some steps are skipped, and not too many."""


@pytest.fixture(scope="module")
def sd3() -> Any:
    return tiny_models.build("sd3")


def forecast(model: Any, threshold: float = 0.5) -> tuple[Any, Any]:
    return cached(model, threshold, mode="forecast")


def run(model: Any, sampler: str = "euler") -> torch.Tensor:
    result: torch.Tensor = sample(model, "sd3", steps=STEPS, sampler=sampler)
    return result


class Momentum:
    """A guidance that remembers earlier steps, as APG does: a running mean of the difference."""

    def __init__(self, share: float = 0.5) -> None:
        self.share, self.calls = share, 0
        self.mean: Any = 0.0

    def __call__(self, args: dict[str, Any]) -> torch.Tensor:
        self.calls += 1
        difference = args["cond_denoised"] - args["uncond_denoised"]
        self.mean = self.share * self.mean + difference
        return args["uncond_denoised"] + args["cond_scale"] * (1 - self.share) * self.mean

    def on(self, model: Any) -> Any:
        patched = model.clone()
        patched.set_model_sampler_cfg_function(lambda args: args["input"] - self(args))
        return patched


def test_linear_guidance_gives_the_same_before_and_after(sd3: Any) -> None:
    """The branches are predicted with the weights of their sum."""
    plain, handle = forecast(sd3)
    expected = run(plain)
    after, after_handle = forecast(sd3)
    after.set_model_sampler_post_cfg_function(lambda args: args["denoised"])
    got = run(after)
    masks = [[r.skipped for r in report_of(h).records] for h in (handle, after_handle)]
    assert masks[0] == masks[1] and any(masks[0])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_a_memory_advances_in_every_step(sd3: Any) -> None:
    native_guidance, guidance = Momentum(), Momentum()
    native = run(native_guidance.on(sd3))
    clone, handle = forecast(guidance.on(sd3))
    got = run(clone)
    report = report_of(handle)
    assert report.skipped > 3 and guidance.calls == native_guidance.calls == STEPS
    assert (got - native).abs().mean() < 0.02 * native.abs().mean()
    never, _ = forecast(Momentum().on(sd3), SKIP_NONE)
    assert torch.equal(run(never), native)


@pytest.mark.parametrize("sampler", CFG_PP)
def test_samplers_that_take_the_unconditional_branch(sd3: Any, sampler: str) -> None:
    native = run(sd3, sampler)
    clone, handle = forecast(sd3, CFG_PP[sampler])
    got = run(clone, sampler)
    report = report_of(handle)
    assert report.method == "forecast" and report.skipped > 0 and not report.warnings
    assert (got - native).abs().mean() < 0.3 * native.abs().mean()
    never, _ = forecast(sd3, SKIP_NONE)
    assert torch.equal(run(never, sampler), native)


def test_a_guider_of_a_pack_runs_in_skipped_steps(sd3: Any) -> None:
    import comfy.sample
    import comfy.samplers
    import foreign

    calls = []

    class Guider(foreign.scheduled()):  # type: ignore[misc]
        def predict_noise(self, *args: Any, **options: Any) -> Any:
            calls.append(1)
            return super().predict_noise(*args, **options)

    clone, handle = forecast(sd3, 2.0)
    guider = foreign.make_guider(clone, Guider, 3.0)
    noise = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    levels = torch.linspace(1, 0, STEPS + 1)
    euler = comfy.samplers.sampler_object("euler")
    guider.sample(noise, torch.zeros_like(noise), euler, levels, disable_pbar=True, seed=1)
    report = report_of(handle)
    assert report.skipped > 0 and len(calls) == len(report.records)


def test_what_a_skip_lacks_is_computed(sd3: Any) -> None:
    """A guidance that begins to evaluate another pass: it was never cached."""
    import comfy.samplers

    seen = []

    def more(args: dict[str, Any]) -> torch.Tensor:
        seen.append(1)
        if len(seen) > STEPS // 2:
            (extra,) = comfy.samplers.calc_cond_batch(
                args["model"], [args["cond"]], args["input"], args["sigma"], args["model_options"]
            )
            return args["denoised"] + 0.01 * (extra - args["uncond_denoised"])
        return args["denoised"]

    clone, handle = forecast(sd3)
    clone.set_model_sampler_post_cfg_function(more)
    assert run(clone).isfinite().all()
    report = report_of(handle)
    assert any(record.reason is Reason.MISMATCH for record in report.records), report.records


def between(start: int, end: int, levels: list[float]) -> Any:
    """A function that evaluates the negative branch in some steps only.

    Returns:
        The function, and a list that gets the outputs for no branch.
    """
    import comfy.samplers

    absent: list[torch.Tensor] = []

    def outputs(args: dict[str, Any]) -> Any:
        positive, negative = args["conds"]
        step = min(range(len(levels)), key=lambda i: abs(levels[i] - float(args["sigma"].max())))
        conds = [positive, negative if start <= step < end else None]
        out = comfy.samplers.calc_cond_batch(
            args["model"], conds, args["input"], args["sigma"], args["model_options"]
        )
        if conds[1] is None:
            absent.append(out[1])
            out[1] = out[0]
        return out

    return outputs, absent


def test_a_branch_that_is_evaluated_in_some_steps_only(sd3: Any) -> None:
    """What was computed without it is not continued into the steps that have it, nor back."""
    import comfy.samplers

    sampling = sd3.get_model_object("model_sampling")
    levels = comfy.samplers.calculate_sigmas(sampling, "simple", STEPS).tolist()[:-1]
    patched = sd3.clone()
    function, absent = between(5, 15, levels)
    patched.set_model_sampler_calc_cond_batch_function(function)
    native = run(patched)
    assert len(absent) == STEPS - 10
    clone, handle = forecast(patched, 1.0)
    got = run(clone)
    report = report_of(handle)
    assert report.skipped > 3 and not report.warnings
    assert len(absent) == 2 * (STEPS - 10), "the function runs in skipped steps too"
    assert not any(out.any() for out in absent)
    for begins in (5, 15):
        computed = next(r for r in report.records[begins:] if r.step == begins)
        assert not computed.skipped, report.records
    assert (got - native).abs().mean() < 0.03 * native.abs().mean()


def test_the_branches_are_in_what_is_held(sd3: Any) -> None:
    plain, handle = forecast(sd3)
    latent = run(plain)
    after, after_handle = forecast(sd3)
    after.set_model_sampler_post_cfg_function(lambda args: args["denoised"])
    run(after)
    more = report_of(after_handle).bytes_held - report_of(handle).bytes_held
    assert more == 4 * latent.numel() * 4, "two branches at two levels, in float32"
