"""The forecast mode on diffusers pipelines: on a skip the transformer is not run at all."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import tiny_pipelines
import torch
from pipeline_sampling import SKIP_NONE, assert_nothing_is_left, report_of, spying, state_of
from tiny_pipelines import TINY, generate, transformers

from teacache.hosts.diffusers.enable import disable_teacache, enable_teacache, teacache
from teacache.hosts.diffusers.outputs import OutputStructure
from teacache.hosts.diffusers.schedulers import sampler_traits
from teacache.report import Reason

FAR = 60.0
"""A threshold that only what is out of reach goes over."""
STEPS = 10


@pytest.fixture(scope="module")
def built() -> dict[str, Any]:
    return {}


def pipe_of(built: dict[str, Any], name: str) -> Any:
    if name not in built:
        built.clear()
        built[name] = tiny_pipelines.build(name)
    return built[name]


@pytest.mark.parametrize("name", list(TINY))
def test_a_skip_runs_nothing_and_leaves_nothing(name: str, built: dict[str, Any]) -> None:
    pipe = pipe_of(built, name)
    before, step = state_of(pipe), pipe.scheduler.step
    with teacache(pipe, FAR) as handle:
        with spying(pipe) as spy:
            first = generate(pipe, name, steps=STEPS)
        assert torch.equal(generate(pipe, name, steps=STEPS), first), "the second run differs"
    report = report_of(handle)
    assert torch.isfinite(first).all()
    assert state_of(pipe) == before
    assert pipe.scheduler.step == step and "step" not in vars(pipe.scheduler)
    assert_nothing_is_left(pipe)
    assert sampler_traits(pipe.scheduler).forecast
    assert report.method == "forecast" and not report.warnings
    assert report.skipped >= 2
    calls = 2 if TINY[name].guidance == "two calls" else 1
    # The hook of diffusers answers before the transformer's own hooks see a skipped call's end.
    ran = [blocks for blocks in spy.per_call if blocks]
    assert len(ran) == calls * report.computed


@pytest.mark.parametrize("name", ["sd3", "flux1", "wan21", "chroma"])
def test_with_residuals_a_skip_runs_all_but_the_blocks(name: str, built: dict[str, Any]) -> None:
    pipe = pipe_of(built, name)
    native = generate(pipe, name, steps=STEPS)
    with teacache(pipe, SKIP_NONE, cached="residual"):
        assert torch.equal(generate(pipe, name, steps=STEPS), native)
    with teacache(pipe, FAR) as plain:
        generate(pipe, name, steps=STEPS)
    with teacache(pipe, FAR, cached="residual") as handle:
        with spying(pipe) as spy:
            first = generate(pipe, name, steps=STEPS)
        assert torch.equal(generate(pipe, name, steps=STEPS), first), "the second run differs"
    report = report_of(handle)
    assert report.cached == "residual" and report.skipped >= 2 and not report.warnings
    calls = 2 if TINY[name].guidance == "two calls" else 1
    assert len(spy.per_call) == calls * STEPS
    assert sum(blocks == 0 for blocks in spy.per_call) == calls * report.skipped
    decided = [record.reason for record in report_of(plain).records]
    assert [record.reason for record in report.records][:4] == decided[:4]


@pytest.mark.parametrize("name", ["sd3", "flux1", "wan21", "qwen_image"])
def test_nothing_skipped_is_bit_identical(name: str, built: dict[str, Any]) -> None:
    pipe = pipe_of(built, name)
    native = generate(pipe, name)
    for threshold in (0.0, SKIP_NONE):
        handle = enable_teacache(pipe, threshold)
        assert torch.equal(generate(pipe, name), native)
        assert report_of(handle).skipped == 0
        disable_teacache(pipe)
    assert torch.equal(generate(pipe, name), native)


def test_the_second_expert_starts_anew(built: dict[str, Any]) -> None:
    pipe = pipe_of(built, "wan22_experts")
    with teacache(pipe, FAR) as handle:
        generate(pipe, "wan22_experts", steps=STEPS)
    reasons = [record.reason for record in report_of(handle).records]
    (change,) = [
        i for i, reason in enumerate(reasons) if reason in (Reason.NEW_BRANCH, Reason.MISMATCH)
    ]
    assert reasons[change + 1 : change + 3] == [Reason.ERROR_UNKNOWN] * 2


@pytest.mark.parametrize("scheduler", ["UniPCMultistepScheduler", "DPMSolverMultistepScheduler"])
def test_multistep_schedulers_are_forecast_without_correction(
    scheduler: str, built: dict[str, Any]
) -> None:
    import diffusers

    pipe = tiny_pipelines.build("wan21")
    pipe.scheduler = getattr(diffusers, scheduler)(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    solver = sampler_traits(pipe.scheduler)
    assert solver.plannable and not solver.euler
    native = generate(pipe, "wan21", steps=16)
    with teacache(pipe, 2.0) as handle:
        got = generate(pipe, "wan21", steps=16)
    assert report_of(handle).skipped > 0
    assert (got - native).abs().mean() < 0.1 * native.abs().mean()


@pytest.mark.parametrize("kind", ["tensor", "tuple", "list", "object"])
def test_zeros_have_the_structure_of_the_output(kind: str) -> None:
    from diffusers.models.modeling_outputs import Transformer2DModelOutput

    tensor = torch.ones(2, 3, dtype=torch.bfloat16)
    out = {
        "tensor": tensor,
        "tuple": (tensor,),
        "list": [tensor, 2 * tensor],
        "object": Transformer2DModelOutput(sample=tensor),
    }[kind]
    zeros = OutputStructure(out).zeros()
    assert type(zeros) is type(out)
    inner = zeros.sample if kind == "object" else zeros if kind == "tensor" else zeros[0]
    assert torch.equal(inner, torch.zeros_like(tensor)) and inner.dtype == tensor.dtype
    assert kind != "list" or len(zeros) == 2
    assert kind != "object" or torch.equal(out.sample, tensor)


@pytest.mark.parametrize("out", [(torch.ones(1), torch.ones(1)), ("text",), [None]])
def test_other_outputs_are_refused(out: Any) -> None:
    with pytest.raises(TypeError, match="the model returns"):
        OutputStructure(out)


def test_two_values_run_without_the_cache() -> None:
    """A transformer that also returns something else keeps every step, and says so."""
    pipe = tiny_pipelines.build("sd3")
    transformer = transformers(pipe)[0]
    native = generate(pipe, "sd3")
    forward = type(transformer).forward

    @functools.wraps(forward)
    def more(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        return (out[0], torch.zeros(1))

    type(transformer).forward = more
    try:
        with teacache(pipe, FAR) as handle:
            got = generate(pipe, "sd3")
    finally:
        type(transformer).forward = forward
    report = report_of(handle)
    assert torch.equal(got, native)
    assert report.skipped == 0 and "returns 2 values" in report.warnings[0]


def test_predictions_that_go_on_in_place_do_not_reach_what_is_remembered() -> None:
    """A pipeline that changes its prediction in place gives the same picture."""
    pipe = tiny_pipelines.build("sd3")
    with teacache(pipe, 2.0, predictor="reuse") as handle:
        expected = generate(pipe, "sd3", steps=STEPS)
        step = pipe.scheduler.step

        def in_place(model_output: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            out = step(model_output, *args, **kwargs)
            model_output.zero_()
            return out

        pipe.scheduler.step = in_place
        got = generate(pipe, "sd3", steps=STEPS)
        assert pipe.scheduler.step is in_place
    assert report_of(handle).skipped > 0
    assert torch.equal(got, expected)


@pytest.mark.parametrize(("preset", "count"), [("1.5x", 13), ("2.0x", 10)])
def test_a_wanted_speedup_computes_exactly_that_share(
    preset: str, count: int, built: dict[str, Any]
) -> None:
    pipe = pipe_of(built, "sd3")
    with teacache(pipe, preset=preset) as handle:
        for seed in range(3):
            picture = generate(pipe, "sd3", steps=20, seed=seed)
            report = report_of(handle)
            assert (report.method, report.computed) == ("forecast", count)
            assert f"forecast, {count} of 20 steps computed." in report.evidence
        assert torch.equal(generate(pipe, "sd3", steps=20, seed=2), picture)
