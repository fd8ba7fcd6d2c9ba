"""Which calls of a transformer belong to one evaluation, and which of them are one branch."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_pipelines
import torch
from pipeline_sampling import report_of
from sampling import SKIP_ALL
from tiny_pipelines import STEPS, generate

from teacache import teacache
from teacache.hosts.diffusers.loop import OUT_OF_ORDER

SMALLEST = 1e-12
"""A threshold under which nothing that changes is skipped."""


@pytest.mark.parametrize("name", ["chroma", "lumina2"])
def test_branches_with_equal_texts_stay_apart(name: str) -> None:
    """An empty prompt and negative prompt, in pipelines that do not name their branches."""
    pipe = tiny_pipelines.build(name)
    given = tiny_pipelines.TINY[name].inputs()
    equal = {key: given[key.removeprefix("negative_")] for key in given if "negative_" in key}
    native = generate(pipe, name, **equal)
    with teacache(pipe, SMALLEST, mode="faithful") as handle:
        assert torch.equal(generate(pipe, name, **equal), native)
    report = report_of(handle)
    assert report.steps == len(report.records) == STEPS and not report.skipped
    for mode in ("faithful", "forecast"):
        with teacache(pipe, SKIP_ALL, mode=mode) as handle:
            generate(pipe, name, **equal)
        report = report_of(handle)
        assert len(report.records) == STEPS and report.skipped and not report.warnings


def control(transformer: Any, seed: int, scale: float) -> list[torch.Tensor]:
    width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
    return [
        scale * tiny_pipelines.noise(seed, 1, 16, width) for _ in transformer.transformer_blocks
    ]


def guided_loop(transformer: Any, steps: int = STEPS) -> torch.Tensor:
    """A loop of the user's own: guidance by a control image against a blank one."""
    text = {"encoder_hidden_states": torch.ones(1, 5, 32), "pooled_projections": torch.ones(1, 12)}
    controls = [control(transformer, 5, 1.0), control(transformer, 6, 0.0)]
    x = tiny_pipelines.noise(3, 1, 4, 8, 8)
    with torch.no_grad():
        for t in torch.linspace(1000, 1000 / steps, steps):
            with_image, blank = (
                transformer(x, timestep=t.reshape(1), block_controlnet_hidden_states=each, **text)[
                    0
                ]
                for each in controls
            )
            x = x - (blank + 3 * (with_image - blank)) / steps
    return x


def test_calls_that_differ_in_another_input_are_branches() -> None:
    transformer = tiny_pipelines.build("sd3").transformer
    native = guided_loop(transformer)
    with teacache(transformer, SMALLEST, num_steps=STEPS, mode="faithful") as handle:
        assert torch.equal(guided_loop(transformer), native)
    report = report_of(handle)
    assert len(report.records) == STEPS and not report.skipped and len(handle.reports) == 1
    with teacache(transformer, SKIP_ALL, num_steps=STEPS, mode="faithful") as handle:
        cached = guided_loop(transformer)
    report = report_of(handle)
    assert [record.skipped for record in report.records] == [False, *[True] * (STEPS - 2), False]
    assert (cached - native).norm() < 0.1 * native.norm()


def test_more_evaluations_than_steps_are_computed_and_told() -> None:
    """A pipeline that steps twice in each step of its schedule."""
    pipe = tiny_pipelines.build("sd3")
    step = pipe.scheduler.step
    forward = pipe.transformer.forward
    with teacache(pipe, SKIP_ALL, mode="faithful") as handle:
        hooked = pipe.scheduler.step

        def twice(output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor, **more: Any):
            index = pipe.scheduler._step_index
            hooked(output, timestep, sample, **more)
            pipe.scheduler._step_index = index
            again = pipe.transformer(*last_call[0], **last_call[1])[0]
            return hooked(again[: len(output)], timestep, sample, **more)

        last_call: list[Any] = [(), {}]

        def remember(module: Any, args: Any, kwargs: Any) -> None:
            last_call[:] = [args, kwargs]

        watching = pipe.transformer.register_forward_pre_hook(remember, with_kwargs=True)
        pipe.scheduler.step = twice
        generate(pipe, "sd3")
        watching.remove()
        del pipe.scheduler.step
    assert pipe.scheduler.step == step and pipe.transformer.forward == forward
    report = report_of(handle)
    warned = " ".join(report.warnings)
    assert OUT_OF_ORDER in warned
    assert not any(record.skipped for record in report.records[1:])
