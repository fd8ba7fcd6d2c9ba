"""Runs that are interrupted or fail, anywhere: the model is what it was, and nothing is kept."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from hostile import (
    MODES,
    SKIP_HALF,
    assert_same_state,
    cached_run,
    failing,
    make_failure,
    patched,
    run,
    skip_pattern,
    small_model,
    state_of,
    track_objects,
)
from sampling import SKIP_ALL, cached, report_of
from torch import nn

from teacache.engine.device import Clock

pytestmark = pytest.mark.usefixtures("comfy")
both_modes = pytest.mark.parametrize("mode", MODES)
STEPS = 9
KINDS = ("interrupt", "error", "memory", "ctrl-c")


@pytest.fixture(scope="module")
def model(comfy: Any) -> Any:
    return small_model(depth=2)


OUTCOMES = {
    "interrupt": "interrupted", "error": "failed", "memory": "failed", "ctrl-c": "failed",
}  # fmt: skip


def sampled(model: Any, kind: str) -> bool:
    """Whether a run went through; its failure is forgotten, as an executor forgets it."""
    try:
        run(model, steps=STEPS)
    except type(make_failure(kind)):
        return False
    return True


def parts_of(model: Any) -> dict[str, nn.Module]:
    transformer = model.model.diffusion_model
    blocks = {f"block {place}": block for place, block in enumerate(transformer.joint_blocks)}
    return {"before": transformer.x_embedder, **blocks, "behind": transformer.final_layer}


@both_modes
@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_at_any_call_of_any_block(model: Any, kind: str, mode: str) -> None:
    """And before and behind the blocks; each time the next run is what it always was."""
    clone, handle = cached(model, SKIP_HALF[mode], mode=mode)
    expected = run(clone, steps=STEPS)
    decided = skip_pattern(report_of(handle))
    assert "s" in decided
    before, clone_options = state_of(model), repr(clone.model_options)
    failures = 0
    with track_objects() as held:
        for part, module in parts_of(model).items():
            for call in range(1, STEPS + 1):
                with failing(module, call, kind) as calls:
                    went_through = sampled(clone, kind)
                assert went_through == (len(calls) < call), (part, call)
                if went_through:
                    break
                failures += 1
                report = report_of(handle)
                assert report.outcome == OUTCOMES[kind]
                assert len(report.records) < STEPS
            assert torch.equal(run(clone, steps=STEPS), expected), part
            assert skip_pattern(report_of(handle)) == decided
    assert failures >= 4 * decided.count("c")
    assert_same_state(model, before)
    assert repr(clone.model_options) == clone_options
    gc.collect()
    assert len(held) > 3 * failures and not [ref for ref in held if ref() is not None]


@both_modes
@pytest.mark.parametrize("step", range(STEPS))
def test_an_interruption_between_steps(model: Any, step: int, mode: str) -> None:
    """As ComfyUI's cancel button makes it: within the sampler's callback."""
    import comfy.sample
    import comfy.samplers
    from comfy.model_management import InterruptProcessingException
    from tiny_models import cond

    clone, handle = cached(model, SKIP_HALF[mode], mode=mode)
    before = state_of(model)

    def at(now: int, *_: Any) -> None:
        if now == step:
            raise InterruptProcessingException

    sampler = comfy.samplers.KSampler(clone, STEPS, "cpu", "euler", "simple", 1.0, {})
    start = torch.zeros(1, 16, 4, 4)
    noise = comfy.sample.prepare_noise(start, 1)
    with (
        track_objects() as held,
        torch.inference_mode(),
        pytest.raises(InterruptProcessingException),
    ):
        sampler.sample(noise, cond("sd3", 1), cond("sd3", 2), 3.0, start, callback=at)
    assert report_of(handle).outcome == "interrupted"
    assert len(report_of(handle).records) == step + 1
    assert_same_state(model, before)
    gc.collect()
    assert held and not [ref for ref in held if ref() is not None]
    assert torch.equal(run(clone, steps=STEPS), cached_run(model, mode, steps=STEPS)[0])


@both_modes
def test_a_failure_of_the_clock_itself(model: Any, mode: str) -> None:
    clone, handle = cached(model, SKIP_ALL, mode=mode)
    expected = run(clone, steps=STEPS)
    before = state_of(model)

    def make(original: Any) -> Any:
        def fails(*_: Any) -> Any:
            raise torch.OutOfMemoryError("out of memory")

        return fails

    with track_objects() as held:
        with patched(Clock, "resolve", make):
            assert not sampled(clone, "memory")
        gc.collect()
        assert held and not [ref for ref in held if ref() is not None]
    assert_same_state(model, before)
    assert torch.equal(run(clone, steps=STEPS), expected)
    assert report_of(handle).outcome == "done"
