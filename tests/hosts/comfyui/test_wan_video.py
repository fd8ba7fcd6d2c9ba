"""Models of ComfyUI-WanVideoWrapper, on a stand-in that has the pack's interface."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import wan_video
from wan_video import FAITHFUL, REUSE, SKIP_ALL, blocks_run, cached, error, newest, transformer

STATIC = {"windows": lambda step: [[0, 1, 2], [2, 3, 4], [4, 5, 6]]}


@pytest.fixture(scope="module", autouse=True)
def stand_in(pack: ModuleType) -> Iterator[None]:
    with wan_video.pack_loaded():
        yield


@pytest.fixture
def model() -> Any:
    return wan_video.model()


def test_at_threshold_zero_the_run_is_the_packs_own(model: Any) -> None:
    native = wan_video.sample(model)
    off, handle = cached(model, 0.0)
    assert torch.equal(wan_video.sample(off), native)
    assert newest(handle).summary == "Wan (WanVideoWrapper): off (threshold 0)"


@pytest.mark.parametrize("scheduler", ["euler", "dpm++"])
def test_steps_are_forecast(model: Any, scheduler: str) -> None:
    native = wan_video.sample(model, scheduler=scheduler)
    assert blocks_run(model) == 40
    fast, handle = cached(model)
    out = wan_video.sample(fast, scheduler=scheduler)
    report = newest(handle)
    assert report.method == "forecast" and not report.warnings
    assert blocks_run(model) == 2 * report.computed < 30
    assert (report.steps, len(report.records)) == (20, 20)
    assert error(out, native) < 0.01
    assert torch.equal(wan_video.sample(fast, scheduler=scheduler), out)
    assert "forward" not in vars(transformer(model))


def test_a_threshold_that_is_never_met_changes_nothing(model: Any) -> None:
    native = wan_video.sample(model)
    for config in ({}, {"mode": "faithful"}, {"cached": "residual"}):
        slow, handle = cached(model, 1e-12, **config)
        assert torch.equal(wan_video.sample(slow), native)
        assert newest(handle).computed == 20


def test_the_faithful_mode_skips_blocks(model: Any) -> None:
    native = wan_video.sample(model)
    fast, handle = cached(model, SKIP_ALL, **FAITHFUL)
    transformer(model).calls = 0
    blocks_run(model)
    out = wan_video.sample(fast)
    report = newest(handle)
    assert report.method == "faithful" and report.computed == 2
    assert (blocks_run(model), transformer(model).calls) == (4, 40)
    assert 0 < error(out, native) < 0.5


def test_a_skip_is_the_input_of_the_stack_and_the_residual(model: Any) -> None:
    """Step 1 of 3 by hand: the tokens that enter the stack, and what the blocks added in step 0."""
    fast, _ = cached(model, SKIP_ALL, **FAITHFUL)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    embed, head = transformer(model).patch_embedding, transformer(model).head
    taken: list[torch.Tensor] = []
    hooks = [
        embed.register_forward_hook(lambda module, args, out: taken.append(out[None].clone())),
        head.register_forward_hook(
            lambda module, args, out: seen.append((taken[-1][0], args[0].clone()))
        ),
    ]
    wan_video.sample(fast, steps=3, cfg=1.0)
    for hook in hooks:
        hook.remove()
    (first_in, first_out), (second_in, second_out), _ = seen
    assert torch.equal(second_out, second_in + (first_out - first_in))


def test_a_skipped_prediction_is_the_weighted_sum_of_those_before(model: Any) -> None:
    """With reuse: the prediction of each branch is its own of the step before."""
    fast, handle = cached(model, SKIP_ALL, **REUSE)
    outs: list[tuple[bool, torch.Tensor]] = []
    transformer(model).register_forward_hook(
        lambda module, args, given, out: outs.append((given["is_uncond"], out[0][0].clone())),
        with_kwargs=True,
    )
    wan_video.sample(fast, scheduler="dpm++")
    skipped = [record.step for record in newest(handle).records if record.skipped]
    assert len(skipped) > 10
    by_branch = {name: [out for own, out in outs if own is name] for name in (False, True)}
    for step in skipped:
        for branch in by_branch.values():
            assert torch.equal(branch[step], branch[step - 1])
    assert not torch.equal(by_branch[False][skipped[0]], by_branch[True][skipped[0]])


@pytest.mark.parametrize("config", [{}, {**FAITHFUL, "threshold": SKIP_ALL}])
def test_context_windows_stay_apart(model: Any, config: dict[str, Any]) -> None:
    native = wan_video.sample(model, frames=7, context_options=STATIC)
    assert blocks_run(model) == 120
    fast, handle = cached(model, **config)
    out = wan_video.sample(fast, frames=7, context_options=STATIC)
    assert blocks_run(model) < 100 and newest(handle).skipped > 0
    assert error(out, native) < 0.5
    reused, handle = cached(model, SKIP_ALL, **REUSE)
    outs: list[torch.Tensor] = []
    hook = transformer(model).register_forward_hook(
        lambda module, args, out: outs.append(out[0][0].clone())
    )
    wan_video.sample(reused, frames=7, context_options=STATIC)
    hook.remove()
    skipped = next(record.step for record in newest(handle).records if record.skipped)
    now, before = (outs[6 * step : 6 * step + 6] for step in (skipped, skipped - 1))
    assert all(map(torch.equal, now, before))
    assert len({float(value.sum()) for value in now}) == 6


def test_windows_that_move_are_windows_of_their_own(model: Any) -> None:
    """A window that was not seen before is computed, though its shape is that of others."""
    moving = {"windows": lambda step: [[(step + k) % 7 for k in range(4)], [0, 1, 2], [3, 4, 5, 6]]}
    native = wan_video.sample(model, frames=7, steps=7, context_options=moving)
    blocks_run(model)
    fast, _ = cached(model, SKIP_ALL, predictor="linear", indicator="rate")
    wan_video.sample(fast, frames=7, steps=7, context_options=moving)
    run = blocks_run(model)
    assert 7 * 2 + 2 * 2 * 4 <= run < 7 * 6
    slow, _ = cached(model, 1e-12)
    assert torch.equal(wan_video.sample(slow, frames=7, steps=7, context_options=moving), native)


def test_a_sampler_that_had_windows_has_none_in_its_next_run(model: Any) -> None:
    import nodes

    sampler = nodes.NODE_CLASS_MAPPINGS["WanVideoSampler"]()
    fast, _ = cached(model)
    expected = wan_video.sample(fast)
    wan_video.sample(fast, sampler, frames=7, context_options=STATIC)
    assert torch.equal(wan_video.sample(fast, sampler), expected)


def test_an_older_version_has_fewer_outputs_and_names(model: Any) -> None:
    fast, handle = cached(model)
    expected = wan_video.sample(fast)
    transformer(model).outputs = 2
    older = {"target_shape": (4, 4, 6, 6), "older": True}
    assert torch.equal(wan_video.sample(fast, image_embeds=older), expected)
    assert newest(handle).skipped > 0


def test_guidance_that_begins_and_ends(model: Any) -> None:
    """A branch that is new is computed, and one that is gone is forgotten."""
    for scales in ([4.0] * 10 + [1.0] * 10, [1.0] * 10 + [4.0] * 10):
        native = wan_video.sample(model, cfg=scales)
        fast, handle = cached(model)
        blocks_run(model)
        assert error(wan_video.sample(fast, cfg=scales), native) < 0.02
        assert blocks_run(model) < 30 and newest(handle).outcome == "done"


def test_another_size_is_another_run(model: Any) -> None:
    fast, handle = cached(model)
    small, large = wan_video.sample(fast), wan_video.sample(fast, frames=6)
    again, _ = cached(model)
    assert torch.equal(wan_video.sample(again, frames=6), large)
    assert torch.equal(wan_video.sample(fast), small)
    assert handle.report_for(large) is handle.reports[1]


def test_each_loop_of_a_run_is_a_run(model: Any) -> None:
    native = wan_video.sample(model, loops=3)
    fast, handle = cached(model)
    assert error(wan_video.sample(fast, loops=3), native) < 0.01
    computed = [report.computed for report in handle.reports]
    assert len(computed) == 3 and max(computed) < 15
    assert [len(report.records) for report in handle.reports] == [20] * 3


def test_two_samplers_share_a_schedule(model: Any) -> None:
    fast, handle = cached(model)
    for part in ({"end_step": 10}, {"start_step": 10}):
        native = wan_video.sample(model, **part)
        assert error(wan_video.sample(fast, **part), native) < 0.01
        assert newest(handle).steps == 10 and newest(handle).skipped > 0


def test_the_second_sampler_and_a_scheduler_of_its_own(model: Any) -> None:
    import sys

    import nodes

    kind = nodes.NODE_CLASS_MAPPINGS["WanVideoSamplerv2"]
    package = kind.__module__.rpartition(".")[0]
    make = sys.modules[f"{package}.schedulers"].get_scheduler
    made, timesteps, *_ = make("euler", 20, 0, -1, 5.0)
    given = {"sample_scheduler": made, "timesteps": timesteps}
    fast, handle = cached(model)
    out = wan_video.sample(fast, kind(), scheduler=given)
    assert torch.equal(out, wan_video.sample(fast))
    assert [report.computed for report in handle.reports] == [newest(handle).computed] * 2


def test_what_the_sampler_asks_before_the_steps_is_none(model: Any) -> None:
    fast, handle = cached(model)
    expected = wan_video.sample(fast)
    embeds = {"target_shape": (4, 4, 6, 6), "asks_first": True}
    assert torch.equal(wan_video.sample(fast, image_embeds=embeds), expected)
    assert len(newest(handle).records) == 20


def test_blocks_that_are_moved_are_moved(model: Any) -> None:
    transformer(model).swaps = True
    native = wan_video.sample(model)
    block = transformer(model).blocks[1]
    block.device_moves = 0
    slow, _ = cached(model, 1e-12, mode="faithful")
    assert torch.equal(wan_video.sample(slow), native)
    assert block.device_moves == 80


def test_a_wanted_speedup_is_kept(model: Any) -> None:
    fast, handle = cached(model, preset="2.0x")
    wan_video.sample(fast)
    assert 9 <= newest(handle).computed <= 11
    assert newest(handle).preset == "2.0x"
