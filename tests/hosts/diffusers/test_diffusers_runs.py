"""Runs of diffusers' pipelines with the cache: how they begin and end, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

import tiny_pipelines
from pipeline_sampling import (
    SKIP_ALL,
    SKIP_NONE,
    assert_nothing_is_left,
    report_of,
    spying,
    state_of,
)
from tiny_pipelines import STEPS, TINY, generate, stack_blocks

from teacache.engine.decision import MIXED
from teacache.errors import ConfigError
from teacache.hosts.diffusers import loop
from teacache.hosts.diffusers.enable import disable_teacache, enable_teacache, teacache
from teacache.report import Reason


@pytest.fixture
def pipe(name: str) -> Any:
    return tiny_pipelines.build(name)


@pytest.mark.parametrize("name", ["sd3", "flux1", "lumina2", "wan22_experts"])
def test_an_exception_leaves_everything_clean(name: str, pipe: Any) -> None:
    native = generate(pipe, name)
    before = state_of(pipe)

    def fail(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        if step == 2:
            raise RuntimeError("stop")
        return inputs

    with teacache(pipe, SKIP_ALL, mode="faithful") as handle:
        with pytest.raises(RuntimeError, match="stop"):
            generate(pipe, name, callback_on_step_end=fail)
        assert report_of(handle).outcome == "failed"
        assert len(report_of(handle).records) == 3
        assert_nothing_is_left(pipe)
        generate(pipe, name)
        assert report_of(handle).outcome == "done"
    assert state_of(pipe) == before
    assert torch.equal(generate(pipe, name), native)


@pytest.mark.parametrize("name", ["flux1"])
def test_an_exception_inside_the_model_leaves_its_blocks(name: str, pipe: Any) -> None:
    before = state_of(pipe)
    seen = []

    def fail(module: nn.Module, args: Any) -> None:
        seen.append(module)
        if len(seen) == 2:
            raise RuntimeError("stop")

    hook = stack_blocks(pipe.transformer)[-1].register_forward_pre_hook(fail)
    with teacache(pipe, SKIP_ALL, mode="faithful"), pytest.raises(RuntimeError, match="stop"):
        generate(pipe, name)
    hook.remove()
    assert state_of(pipe) == before
    assert_nothing_is_left(pipe)


@pytest.mark.parametrize("name", ["sd3"])
def test_an_interrupted_run_says_so(name: str, pipe: Any) -> None:
    def stop(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = step >= 2
        return inputs

    with teacache(pipe, SKIP_ALL, mode="faithful") as handle:
        generate(pipe, name, callback_on_step_end=stop)
    assert (report_of(handle).outcome, len(report_of(handle).records)) == ("interrupted", 3)


@pytest.mark.parametrize("name", ["sd3"])
def test_the_listener_hears_each_step_before_the_next_begins(name: str, pipe: Any) -> None:
    events: list[str] = []

    def at_step(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        events.append(f"callback {step}")
        return inputs

    with teacache(
        pipe, SKIP_ALL, mode="faithful", listener=lambda event, data: events.append(event)
    ):
        generate(pipe, name, steps=2, callback_on_step_end=at_step)
    assert events == ["start", "callback 0", "step", "callback 1", "step", "end"]


@pytest.mark.parametrize("name", ["sd3"])
def test_a_batch_with_one_changed_image_is_decided_by_the_largest_change(
    name: str, pipe: Any
) -> None:
    with teacache(pipe, SKIP_NONE, mode="faithful") as handle:
        generate(pipe, name, seed=1)
        alone = [r.accumulated for r in report_of(handle).records]
        first = tiny_pipelines.noise(5, 1, 4, 8, 8)
        generate(pipe, name, latents=first)
        other = [r.accumulated for r in report_of(handle).records]
        latents = torch.cat([first, torch.randn(1, 4, 8, 8, generator=_seeded(1))])
        doubled = {
            key: value.repeat(2, *[1] * (value.ndim - 1))
            for key, value in TINY[name].inputs().items()
            if isinstance(value, torch.Tensor)
        }
        generate(pipe, name, latents=latents, **doubled)
        both = [r.accumulated for r in report_of(handle).records]
    expected = [max(pair) for pair in zip(alone, other, strict=True)]
    assert both == pytest.approx(expected, rel=1e-3)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", ["flux1", "lumina2"])
def test_joint_decisions_are_taken_before_the_first_branch(name: str, pipe: Any) -> None:
    """Where text is in the indicator: one branch over the threshold computes both, never one."""
    with teacache(pipe, SKIP_NONE, mode="faithful") as handle:
        generate(pipe, name, steps=10)
        distances = [r.distance for r in report_of(handle).records if r.distance is not None]
    middle = sorted(distances)[len(distances) // 2]
    patterns = set()
    for threshold in (middle * 0.98, middle * 1.01, middle * 1.5, middle * 2.2):
        with teacache(pipe, threshold, mode="faithful") as handle, spying(pipe) as spy:
            generate(pipe, name, steps=10)
        report = report_of(handle)
        skips = [r.skipped for r in report.records]
        assert not report.warnings, "branches of one step were decided apart"
        blocks = len(stack_blocks(pipe.transformer))
        assert spy.per_call == [0 if s else blocks for s in skips for _ in range(2)]
        patterns.add(tuple(skips))
    assert len(patterns) > 1


def test_a_branch_computed_after_another_was_skipped_makes_the_next_step_compute_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the peek, which a branch with a latent of its own does not allow."""
    monkeypatch.setattr(loop, "other_branches_count", lambda run, decision: False)
    pipe = tiny_pipelines.build("flux1")
    blocks = len(stack_blocks(pipe.transformer))
    with teacache(pipe, SKIP_NONE, mode="faithful") as handle:
        generate(pipe, "flux1", steps=10)
        lowest = min(r.distance for r in report_of(handle).records if r.distance is not None)
    found = 0
    for factor in (1.02, 1.04, 1.06, 1.1, 2.05, 2.1):
        with teacache(pipe, lowest * factor, mode="faithful") as handle, spying(pipe) as spy:
            generate(pipe, "flux1", steps=10)
        steps = list(zip(spy.per_call[::2], spy.per_call[1::2], strict=True))
        mixed = [step for step, calls in enumerate(steps) if calls == (0, blocks)]
        found += len(mixed)
        assert bool(mixed) == (MIXED in report_of(handle).warnings)
        assert all(steps[step + 1] == (blocks, blocks) for step in mixed)
        assert not any(report_of(handle).records[step].skipped for step in mixed)
    assert found, "no threshold lies between the branches"


def test_two_evaluations_a_step_are_told_apart() -> None:
    from diffusers import FlowMatchHeunDiscreteScheduler

    pipe = tiny_pipelines.build("sd3")
    native_pipe = pipe
    native_pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    native = generate(pipe, "sd3")
    with teacache(pipe, SKIP_NONE, mode="faithful") as handle:
        assert torch.equal(generate(pipe, "sd3"), native)
    report = report_of(handle)
    assert report.steps == STEPS
    assert [r.step for r in report.records] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert report.records[-1].reason is Reason.LAST


def test_image_to_image_counts_its_own_steps() -> None:
    from diffusers import StableDiffusion3Img2ImgPipeline

    base = tiny_pipelines.build("sd3")
    parts = {**base.components, "vae": tiny_pipelines.kl_vae()}
    tiny_pipelines.set_weights(parts["vae"].eval())
    pipe = StableDiffusion3Img2ImgPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    with teacache(pipe, SKIP_ALL, mode="faithful") as handle:
        generate(pipe, "sd3", steps=10, strength=0.6, image=tiny_pipelines.image(), height=32,
                 width=32)  # fmt: skip
    report = report_of(handle)
    assert report.steps == len(report.records) == 6
    assert [r.skipped for r in report.records] == [False, True, True, True, True, False]
    assert report.sigmas[0] < 0.99


def test_the_users_own_loop_over_a_transformer() -> None:
    pipe = tiny_pipelines.build("sd3")
    transformer = pipe.transformer
    text = {"encoder_hidden_states": torch.ones(1, 5, 32), "pooled_projections": torch.ones(1, 12)}

    def loop(steps: int) -> torch.Tensor:
        x = tiny_pipelines.noise(3, 1, 4, 8, 8)
        with torch.no_grad():
            for t in torch.linspace(1000, 1000 / steps, steps):
                x = x - transformer(x, timestep=t.reshape(1), **text)[0] / steps
        return x

    native = loop(5)
    before = state_of(pipe)
    with teacache(transformer, SKIP_ALL, num_steps=5, mode="faithful") as handle:
        first = loop(5)
        assert torch.equal(loop(5), first)
    assert not torch.equal(first, native)
    assert [r.outcome for r in handle.reports] == ["done", "done"]
    assert [r.skipped for r in report_of(handle).records] == [False, True, True, True, False]
    assert state_of(pipe) == before
    assert torch.equal(loop(5), native)


def test_gradients_turn_it_off_and_say_so() -> None:
    transformer = tiny_pipelines.build("sd3").transformer
    arguments = {
        "hidden_states": torch.ones(1, 4, 8, 8), "timestep": torch.ones(1),
        "encoder_hidden_states": torch.ones(1, 5, 32), "pooled_projections": torch.ones(1, 12),
    }  # fmt: skip
    with teacache(transformer, SKIP_ALL, num_steps=3, mode="faithful") as handle:
        for _ in range(3):
            transformer(**arguments)[0].sum().backward()
    assert transformer.proj_out.weight.grad is not None
    assert "Gradients were on" in report_of(handle).warnings[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rel_l1_thresh": float("nan")}, "rel_l1_thresh must be a number from 0"),
        ({"rel_l1_thresh": -1.0}, "rel_l1_thresh must be a number from 0"),
        ({"rel_l1_tresh": 0.3}, "did you mean 'rel_l1_thresh'"),
        ({"profile": "flux1-dev"}, "made for the family 'flux1'"),
        ({"num_steps": 4}, "num_steps is for a bare transformer"),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(
    settings: dict[str, Any], message: str
) -> None:
    pipe = tiny_pipelines.build("sd3")
    before = state_of(pipe)
    with pytest.raises(ConfigError, match=message):
        enable_teacache(pipe, **settings)
    assert state_of(pipe) == before


def test_what_it_cannot_be_enabled_on() -> None:
    from diffusers import DiffusionPipeline

    class Decoder(DiffusionPipeline):  # type: ignore[misc]
        def __init__(self, vae: Any) -> None:
            super().__init__()
            self.register_modules(vae=vae)

    with pytest.raises(ConfigError, match="no network that takes a timestep"):
        enable_teacache(Decoder(tiny_pipelines.kl_vae()))
    with pytest.raises(ConfigError, match="a diffusers pipeline or transformer is needed, not str"):
        enable_teacache("Qwen/Qwen-Image")
    with pytest.raises(ConfigError, match="num_steps must be"):
        enable_teacache(tiny_pipelines.build("sd3").transformer)


def test_another_cache_of_diffusers_is_refused() -> None:
    from diffusers import FirstBlockCacheConfig

    pipe = tiny_pipelines.build("flux1")
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(ConfigError, match="already has a cache of diffusers"):
        enable_teacache(pipe)


def test_enabling_twice_replaces_the_first() -> None:
    pipe = tiny_pipelines.build("sd3")
    before = state_of(pipe)
    first = enable_teacache(pipe, SKIP_ALL, mode="faithful")
    second = enable_teacache(pipe, SKIP_NONE, mode="faithful")
    generate(pipe, "sd3")
    assert first.report_for() is None
    assert report_of(second).skipped == 0
    assert pipe.teacache is second
    disable_teacache(pipe)
    disable_teacache(pipe)
    assert state_of(pipe) == before


def test_hooks_that_others_put_on_the_transformer_stay() -> None:
    """As accelerate's offloading does, which puts its hook on anew after every run."""
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    pipe = tiny_pipelines.build("sd3")
    native = generate(pipe, "sd3")
    seen = []

    class Counting(ModelHook):
        def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            seen.append(module)
            return args, kwargs

    with teacache(pipe, SKIP_ALL, mode="faithful") as handle:
        for _ in range(2):
            add_hook_to_module(pipe.transformer, Counting())
            generate(pipe, "sd3")
            remove_hook_from_module(pipe.transformer)
            assert report_of(handle).skipped == 4
    assert len(seen) == 2 * STEPS
    assert torch.equal(generate(pipe, "sd3"), native)


def test_compiled_transformers_keep_working() -> None:
    pipe = tiny_pipelines.build("flux1")
    with teacache(pipe, SKIP_ALL, mode="faithful"):
        expected = generate(pipe, "flux1", steps=4)
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    with teacache(pipe, SKIP_ALL, mode="faithful") as handle:
        got = generate(pipe, "flux1", steps=4)
    assert report_of(handle).skipped == 2
    torch.testing.assert_close(got, expected)
