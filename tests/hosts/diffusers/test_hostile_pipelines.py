"""Diffusers: loops that are interrupted or fail, anywhere; where what is kept waits."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

import tiny_pipelines
from hostile import MODES, failing, patched, track_objects
from pipeline_sampling import assert_nothing_is_left, report_of, state_of
from tiny_pipelines import generate, stack_blocks

from teacache.engine.run import Run
from teacache.hosts.diffusers.enable import teacache

STEPS = 9
MANY = {"forecast": 1.0, "faithful": 0.4}
both_modes = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_pipelines.build("sd3")


def pattern(handle: Any) -> str:
    return "".join("s" if record.skipped else "c" for record in report_of(handle).records)


def weights(pipe: Any) -> list[torch.Tensor]:
    return [value.clone() for value in pipe.transformer.state_dict().values()]


@pytest.mark.usefixtures("comfy")  # `failing` knows ComfyUI's interruption
@both_modes
@pytest.mark.parametrize("kind", ["error", "memory", "ctrl-c"])
def test_a_failure_at_any_call_of_any_block(pipe: Any, kind: str, mode: str) -> None:
    native = generate(pipe, "sd3", steps=STEPS)
    before, values = state_of(pipe), weights(pipe)
    step = pipe.scheduler.step
    parts: list[nn.Module] = [
        pipe.transformer.pos_embed,
        *stack_blocks(pipe.transformer),
        pipe.transformer.proj_out,
    ]
    failures = 0
    with track_objects() as held, teacache(pipe, MANY[mode], mode=mode) as handle:
        expected = generate(pipe, "sd3", steps=STEPS)
        decided, state = pattern(handle), state_of(pipe)
        assert "s" in decided
        for part in parts:
            for call in range(1, 2 * STEPS + 1):
                with failing(part, call, kind) as calls:
                    failed = False
                    try:
                        generate(pipe, "sd3", steps=STEPS)
                    except (RuntimeError, KeyboardInterrupt):
                        failed = True
                assert failed == (len(calls) >= call)
                if not failed:
                    break
                failures += 1
                outcome = "interrupted" if kind == "ctrl-c" else "failed"
                assert report_of(handle).outcome == outcome
                assert state_of(pipe) == state and pipe.scheduler.step == step
            assert torch.equal(generate(pipe, "sd3", steps=STEPS), expected)
            assert pattern(handle) == decided
    assert failures >= len(parts) * decided.count("c")
    assert state_of(pipe) == before and "step" not in vars(pipe.scheduler)
    assert all(map(torch.equal, weights(pipe), values))
    assert torch.equal(generate(pipe, "sd3", steps=STEPS), native)
    gc.collect()
    assert held and not [ref for ref in held if ref() is not None]


@both_modes
@pytest.mark.parametrize("place", ["callback", "scheduler"])
def test_a_failure_at_any_step_outside_the_model(pipe: Any, place: str, mode: str) -> None:
    before = state_of(pipe)
    with teacache(pipe, MANY[mode], mode=mode) as handle:
        expected = generate(pipe, "sd3", steps=STEPS)
        for failing_step in range(STEPS):
            seen: list[int] = []

            def fail(at: int = failing_step, seen: list[int] = seen) -> None:
                seen.append(1)
                if len(seen) == at + 1:
                    raise RuntimeError("stop")

            def at_step(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> Any:
                fail()
                return inputs

            def stepping(step: Any) -> Any:
                return lambda *args, **kwargs: (fail(), step(*args, **kwargs))[1]

            with pytest.raises(RuntimeError, match="stop"):
                if place == "callback":
                    generate(pipe, "sd3", steps=STEPS, callback_on_step_end=at_step)
                else:
                    with patched(pipe.scheduler, "step", stepping):
                        generate(pipe, "sd3", steps=STEPS)
            assert report_of(handle).outcome == "failed"
        assert_nothing_is_left(pipe)
        assert torch.equal(generate(pipe, "sd3", steps=STEPS), expected)
    assert state_of(pipe) == before


@both_modes
@pytest.mark.parametrize("settings", [{}, {"cached": "residual"}])
def test_all_that_waits_is_put_where_it_is_to_wait(pipe: Any, settings: Any, mode: str) -> None:
    """Another type stands for another device: what went there comes back for its use."""
    with teacache(pipe, MANY[mode], mode=mode, **settings) as handle:
        expected = generate(pipe, "sd3", steps=STEPS)
        skipped = report_of(handle).skipped
        placed: list[torch.Tensor] = []

        def elsewhere(place: Any) -> Any:
            def put(self: Run, held: torch.Tensor) -> torch.Tensor:
                placed.append(place(self, held).to(torch.float64))
                return placed[-1]

            return put

        with patched(Run, "to_cache_device", elsewhere):
            got = generate(pipe, "sd3", steps=STEPS)
    assert placed and skipped and report_of(handle).skipped == skipped
    assert got.dtype == expected.dtype
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
