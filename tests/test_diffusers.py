"""TeaCache on diffusers' own pipelines: off is native, skips are right, branches stay apart."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

import tiny_pipelines
from tiny_pipelines import STEPS, TINY, generate, stack_blocks, transformers

from teacache.config import ConfigError
from teacache.hosts.diffusers import (
    CachedPipeline,
    disable_teacache,
    enable_teacache,
    teacache,
)
from teacache.report import Reason, RunReport

SKIP_ALL = 90.0
NEVER = 1e-12
every_pipeline = pytest.mark.parametrize("name", list(TINY))
guided = pytest.mark.parametrize(
    "name", [name for name, tiny in TINY.items() if tiny.guidance != "none"]
)


@pytest.fixture
def pipe(name: str) -> Any:
    return tiny_pipelines.build(name)


def report_of(handle: CachedPipeline) -> RunReport:
    report = handle.report_for()
    assert report is not None
    return report


@dataclass
class Spy:
    """Block calls within each call of a transformer, and what came back, by hooks of its own."""

    per_call: list[int] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)


@contextmanager
def spying(pipe: Any) -> Iterator[Spy]:
    spy = Spy()

    def called(module: nn.Module, args: Any) -> None:
        spy.per_call.append(0)

    def block_called(module: nn.Module, args: Any) -> None:
        spy.per_call[-1] += 1

    def answered(module: nn.Module, args: Any, out: Any) -> None:
        sample = out[0]
        spy.outputs.append(torch.stack(sample) if isinstance(sample, list) else sample.clone())

    hooks = []
    for transformer in transformers(pipe):
        hooks.append(transformer.register_forward_pre_hook(called))
        hooks.append(transformer.register_forward_hook(answered))
        hooks += [b.register_forward_pre_hook(block_called) for b in stack_blocks(transformer)]
    try:
        yield spy
    finally:
        for hook in hooks:
            hook.remove()


def state_of(pipe: Any) -> list[Any]:
    """What must be the same again afterwards: attributes, forwards, and the blocks' slots."""
    parts: list[Any] = [name in vars(pipe) for name in ("teacache", "progress_bar")]
    for transformer in transformers(pipe):
        parts += ["forward" in vars(transformer), [id(m) for m in transformer.modules()]]
    return parts


def assert_nothing_is_left(pipe: Any) -> None:
    from teacache.blocks import BlockStack
    from teacache.decision import BranchState
    from teacache.run import Run

    gc.collect()
    live = [o for o in gc.get_objects() if type(o) in (Run, BranchState, BlockStack)]
    assert not live
    for transformer in transformers(pipe):
        assert not any("StandIn" in type(module).__name__ for module in transformer.modules())


@every_pipeline
def test_off_is_bit_identical_and_disable_restores_everything(name: str, pipe: Any) -> None:
    native = generate(pipe, name)
    before = state_of(pipe)
    for threshold in (0.0, NEVER):
        handle = enable_teacache(pipe, threshold)
        assert torch.equal(generate(pipe, name), native)
        report = report_of(handle)
        assert (report.skipped, report.outcome, report.host) == (0, "done", "diffusers")
        assert report.family == TINY[name].family
        disable_teacache(pipe)
        assert state_of(pipe) == before
    assert torch.equal(generate(pipe, name), native)


@every_pipeline
def test_a_skip_calls_no_block_and_the_second_run_equals_the_first(name: str, pipe: Any) -> None:
    with teacache(pipe, SKIP_ALL) as handle:
        with spying(pipe) as spy:
            first = generate(pipe, name)
        assert torch.equal(generate(pipe, name), first)
        one, two = ([r.skipped for r in report.records] for report in handle.reports)
    assert one == two
    report = report_of(handle)
    assert not report.warnings
    assert len(one) == report.steps == STEPS
    assert not one[0] and not one[-1]
    eligible = range(1, STEPS - 1)
    start = handle.profile.start_percent * STEPS
    expected = {step for step in eligible if step >= start}
    if name == "wan22_experts":
        expected -= {2}
        assert report.records[2].reason is Reason.NEW_BRANCH
    assert {step for step in eligible if one[step]} == expected
    calls = len(spy.per_call) // STEPS
    blocks = len(stack_blocks(transformers(pipe)[0]))
    assert spy.per_call == [0 if skipped else blocks for skipped in one for _ in range(calls)]
    assert calls == (2 if TINY[name].guidance == "two calls" else 1)
    assert_nothing_is_left(pipe)


@guided
def test_branches_do_not_take_each_others_residual(name: str, pipe: Any) -> None:
    """On a skip, the branches' answers differ as they do on the computed step before."""
    with teacache(pipe, SKIP_ALL) as handle, spying(pipe) as spy:
        generate(pipe, name)
    outputs = spy.outputs
    if TINY[name].guidance == "one batch":
        outputs = [half for out in outputs for half in out.chunk(2)]
    differences = [
        (one - other).abs().mean().item()
        for one, other in zip(outputs[::2], outputs[1::2], strict=True)
    ]
    computed = 0.0
    for record, difference in zip(report_of(handle).records, differences, strict=True):
        if record.skipped:
            assert difference > 0.3 * computed > 0, "the branches share a residual"
        else:
            computed = difference


ENTRY = {"sd3": "pos_embed", "flux1": "x_embedder", "qwen_image": "img_in"}
ENTRY |= {"wan21": "patch_embedding", "flux1_distilled": "x_embedder", "qwen_image_edit": "img_in"}


@pytest.mark.parametrize("name", list(ENTRY))
def test_a_skip_equals_arithmetic_by_hand(name: str, pipe: Any) -> None:
    """What leaves the stack on a skip is its input plus what the blocks added when computed."""
    transformer = transformers(pipe)[0]
    entries: list[torch.Tensor] = []
    exits: list[torch.Tensor] = []

    def entered(module: nn.Module, args: Any, out: torch.Tensor) -> None:
        entries.append(out.flatten(2).transpose(1, 2).clone() if out.ndim == 5 else out.clone())

    def left(module: nn.Module, args: Any) -> None:
        exits.append(args[0].clone())

    hooks = [
        transformer.get_submodule(ENTRY[name]).register_forward_hook(entered),
        transformer.norm_out.register_forward_pre_hook(left),
    ]
    with teacache(pipe, SKIP_ALL) as handle, spying(pipe) as spy:
        generate(pipe, name)
    for hook in hooks:
        hook.remove()
    skips = [record.skipped for record in report_of(handle).records]
    branches = len(spy.outputs) // len(skips)
    if len(entries) > len(exits) or len(exits) > len(spy.outputs):
        # peeking runs the embedders and the last layers too, just before the step's first call
        keep = [i for i in range(len(exits)) if i not in peeks(len(exits), skips, branches)]
        entries, exits = [entries[i] for i in keep], [exits[i] for i in keep]
    assert len(entries) == len(exits) == len(spy.outputs)
    residuals: dict[int, torch.Tensor] = {}
    for index, (entry, leaving) in enumerate(zip(entries, exits, strict=True)):
        branch, skipped = index % branches, skips[index // branches]
        if skipped:
            expected = entry + residuals[branch]
            torch.testing.assert_close(leaving, expected, rtol=1e-5, atol=1e-5)
        else:
            residuals[branch] = leaving - entry
    assert any(skips)


def peeks(calls: int, skips: list[bool], branches: int) -> set[int]:
    """Indices of the extra passes: one before every step that measures, of the other branch."""
    found, position = set(), 0
    for step in range(len(skips)):
        if 0 < step < len(skips) - 1:
            found.add(position)
            position += 1
        position += branches
    assert position == calls
    return found


@pytest.mark.parametrize("name", ["sd3", "flux1", "lumina2", "wan22_experts"])
def test_an_exception_leaves_everything_clean(name: str, pipe: Any) -> None:
    native = generate(pipe, name)
    before = state_of(pipe)

    def fail(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        if step == 2:
            raise RuntimeError("stop")
        return inputs

    with teacache(pipe, SKIP_ALL) as handle:
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
    with teacache(pipe, SKIP_ALL), pytest.raises(RuntimeError, match="stop"):
        generate(pipe, name)
    hook.remove()
    assert state_of(pipe) == before
    assert_nothing_is_left(pipe)


@pytest.mark.parametrize("name", ["sd3"])
def test_an_interrupted_run_says_so(name: str, pipe: Any) -> None:
    def stop(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = step >= 2
        return inputs

    with teacache(pipe, SKIP_ALL) as handle:
        generate(pipe, name, callback_on_step_end=stop)
    assert (report_of(handle).outcome, len(report_of(handle).records)) == ("interrupted", 3)


@pytest.mark.parametrize("name", ["sd3"])
def test_the_listener_hears_each_step_before_the_next_begins(name: str, pipe: Any) -> None:
    events: list[str] = []

    def at_step(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        events.append(f"callback {step}")
        return inputs

    with teacache(pipe, SKIP_ALL, listener=lambda event, data: events.append(event)):
        generate(pipe, name, steps=2, callback_on_step_end=at_step)
    assert events == ["start", "callback 0", "step", "callback 1", "step", "end"]


@pytest.mark.parametrize("name", ["sd3"])
def test_a_batch_with_one_changed_image_is_decided_by_the_largest_change(
    name: str, pipe: Any
) -> None:
    with teacache(pipe, NEVER) as handle:
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
    with teacache(pipe, NEVER) as handle:
        generate(pipe, name, steps=10)
        distances = [r.distance for r in report_of(handle).records if r.distance is not None]
    middle = sorted(distances)[len(distances) // 2]
    patterns = set()
    for threshold in (middle * 0.98, middle * 1.01, middle * 1.5, middle * 2.2):
        with teacache(pipe, threshold) as handle, spying(pipe) as spy:
            generate(pipe, name, steps=10)
        report = report_of(handle)
        skips = [r.skipped for r in report.records]
        assert not report.warnings, "branches of one step were decided apart"
        blocks = len(stack_blocks(pipe.transformer))
        assert spy.per_call == [0 if s else blocks for s in skips for _ in range(2)]
        patterns.add(tuple(skips))
    assert len(patterns) > 1


def test_two_evaluations_a_step_are_told_apart() -> None:
    from diffusers import FlowMatchHeunDiscreteScheduler

    pipe = tiny_pipelines.build("sd3")
    native_pipe = pipe
    native_pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    native = generate(pipe, "sd3")
    with teacache(pipe, NEVER) as handle:
        assert torch.equal(generate(pipe, "sd3"), native)
    report = report_of(handle)
    assert report.steps == STEPS
    assert [r.step for r in report.records] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert report.records[-1].reason is Reason.LAST


def test_image_to_image_counts_its_own_steps() -> None:
    from diffusers import StableDiffusion3Img2ImgPipeline

    base = tiny_pipelines.build("sd3")
    parts = {**base.components, "vae": tiny_pipelines.kl()}
    tiny_pipelines.set_weights(parts["vae"].eval())
    pipe = StableDiffusion3Img2ImgPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    with teacache(pipe, SKIP_ALL) as handle:
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
    with teacache(transformer, SKIP_ALL, num_steps=5) as handle:
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
    with teacache(transformer, SKIP_ALL, num_steps=3) as handle:
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
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="has no transformer"):
        enable_teacache(DDPMPipeline(unet, DDPMScheduler()))
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
    first = enable_teacache(pipe, SKIP_ALL)
    second = enable_teacache(pipe, NEVER)
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

    with teacache(pipe, SKIP_ALL) as handle:
        for _ in range(2):
            add_hook_to_module(pipe.transformer, Counting())
            generate(pipe, "sd3")
            remove_hook_from_module(pipe.transformer)
            assert report_of(handle).skipped == 4
    assert len(seen) == 2 * STEPS
    assert torch.equal(generate(pipe, "sd3"), native)


def test_compiled_transformers_keep_working() -> None:
    pipe = tiny_pipelines.build("flux1")
    with teacache(pipe, SKIP_ALL):
        expected = generate(pipe, "flux1", steps=4)
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    with teacache(pipe, SKIP_ALL) as handle:
        got = generate(pipe, "flux1", steps=4)
    assert report_of(handle).skipped == 2
    torch.testing.assert_close(got, expected)
