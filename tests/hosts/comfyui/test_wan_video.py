"""Models of ComfyUI-WanVideoWrapper, on a stand-in that has the pack's interface."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import wan_video

from teacache.config import TeaCacheConfig
from teacache.errors import ConfigError
from teacache.report import Reason, RunReport

SKIP_ALL = 90.0
FAITHFUL = {"mode": "faithful", "coefficients": (1.0, 0.0)}
"""The change of the embedding as it is: the stand-in's is not what the profiles were fitted to."""
REUSE = {"predictor": "reuse", "indicator": "rate"}
STATIC = {"windows": lambda step: [[0, 1, 2], [2, 3, 4], [4, 5, 6]]}


@pytest.fixture(scope="module", autouse=True)
def stand_in(pack: ModuleType) -> Iterator[None]:
    import nodes

    before = set(nodes.NODE_CLASS_MAPPINGS)
    wan_video.load_pack()
    yield
    for name in nodes.NODE_CLASS_MAPPINGS.keys() - before:
        del nodes.NODE_CLASS_MAPPINGS[name]


@pytest.fixture
def model() -> Any:
    return wan_video.model()


def cached(model: Any, threshold: float | None = None, **config: Any) -> tuple[Any, Any]:
    from teacache.hosts.comfyui.wan_video import apply_to_wan_video

    settings = TeaCacheConfig(rel_l1_thresh=threshold, **config)
    clone, handle = apply_to_wan_video(model, settings)
    assert handle is not None
    return clone, handle


def transformer(model: Any) -> Any:
    return model.model.diffusion_model


def blocks_run(model: Any) -> int:
    """How often the first block has run since this was asked last."""
    block = transformer(model).blocks[0]
    calls, block.calls = block.calls, 0
    return calls


def error(out: torch.Tensor, native: torch.Tensor) -> float:
    return float((out - native).norm() / native.norm())


def newest(handle: Any) -> RunReport:
    return handle.reports[-1]


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


@pytest.mark.parametrize(
    ("scheduler", "said"),
    [
        ("lcm", "The sampler FlowMatchLCMScheduler cannot be forecast (it adds noise"),
        ("dpm++_sde", "The sampler FlowDPMSolverMultistepScheduler cannot be forecast (it adds"),
        ("unheard of", "what it does between the steps is not known"),
    ],
)
def test_nothing_is_forecast_across_noise(model: Any, scheduler: str, said: str) -> None:
    native = wan_video.sample(model, scheduler=scheduler)
    fast, handle = cached(model, SKIP_ALL)
    blocks_run(model)
    wan_video.sample(fast, scheduler=scheduler)
    report = newest(handle)
    assert report.method == "faithful" and said in report.warnings[0]
    assert blocks_run(model) == 2 * report.computed
    slow, _ = cached(model, 1e-12)
    assert torch.equal(wan_video.sample(slow, scheduler=scheduler), native)


def test_levels_that_are_not_those_of_the_timesteps_are_left_alone(model: Any) -> None:
    native = wan_video.sample(model, scheduler="rcm")
    fast, handle = cached(model, SKIP_ALL)
    assert torch.equal(wan_video.sample(fast, scheduler="rcm"), native)
    assert newest(handle).warnings == [
        "Wan (WanVideoWrapper): runs without the cache: ValueError: the levels of "
        "rCMFlowMatchScheduler are not those of its timesteps"
    ]
    assert newest(handle).summary == "Wan (WanVideoWrapper): ran without the cache"


@pytest.mark.parametrize("name", ["cache_args", "teacache_args"])
def test_the_packs_own_cache_is_refused(model: Any, name: str) -> None:
    fast, handle = cached(model)
    own = {name: {"cache_type": "MagCache"}}
    transformer(model).calls = 0
    with pytest.raises(ConfigError, match=f"^{name}: the sampler would skip steps by a cache of"):
        wan_video.sample(fast, **own)
    assert transformer(model).calls == 0 and not handle.reports
    native = wan_video.sample(model)
    assert torch.equal(wan_video.sample(model, **own), native)
    off, _ = cached(model, 0.0)
    assert torch.equal(wan_video.sample(off, **own), native)


@pytest.mark.parametrize(
    ("change", "given", "said"),
    [
        ({}, {"loop_args": {"shift_skip": 1}}, "loop_args moves the frames between the steps"),
        (
            {"lora_scheduling_enabled": True},
            {},
            "a LoRA changes its strength from step to step",
        ),
        (
            {},
            {"image_embeds": {"target_shape": (4, 4, 6, 6), "ttm_reference_latents": 1}},
            "Time-to-move leaves out steps at the start, and exchanges parts of the latent",
        ),
    ],
)
def test_what_no_step_tells_of_another_is_computed(
    model: Any, change: dict[str, Any], given: dict[str, Any], said: str
) -> None:
    model.model_options["transformer_options"].update(change)
    native = wan_video.sample(model, **given)
    fast, handle = cached(model, SKIP_ALL)
    assert torch.equal(wan_video.sample(fast, **given), native)
    report = newest(handle)
    assert report.warnings == [f"Wan (WanVideoWrapper): runs without the cache: {said}"]
    assert len(report.records) == report.computed == 20


def test_an_older_version_has_fewer_outputs(model: Any) -> None:
    fast, _ = cached(model)
    expected = wan_video.sample(fast)
    transformer(model).outputs = 2
    assert torch.equal(wan_video.sample(fast), expected)


def test_a_version_that_makes_its_schedulers_elsewhere(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    import nodes

    module = sys.modules[nodes.NODE_CLASS_MAPPINGS["WanVideoSampler"].__module__]
    made, timesteps, *_ = module.get_scheduler("euler", 20, 0, -1, 5.0)
    given = {"sample_scheduler": made, "timesteps": timesteps}
    native = wan_video.sample(model, scheduler=given)
    fast, handle = cached(model)
    wan_video.sample(fast)
    monkeypatch.delattr(module, "get_scheduler")
    assert torch.equal(wan_video.sample(fast, scheduler=given), native)
    assert "has no function get_scheduler" in newest(handle).warnings[0]


def test_a_sound_beside_the_video_is_not_cached(model: Any) -> None:
    transformer(model).sound = True
    native = wan_video.sample(model)
    fast, handle = cached(model, SKIP_ALL)
    assert torch.equal(wan_video.sample(fast), native)
    assert "more than the prediction of one video" in newest(handle).warnings[0]


def test_a_transformer_that_is_compiled_as_a_whole_is_left_alone(model: Any) -> None:
    model.model.pipeline["compile_args"] = {"compile_transformer_blocks_only": False}
    native = wan_video.sample(model)
    fast, handle = cached(model, SKIP_ALL)
    assert torch.equal(wan_video.sample(fast), native)
    assert "let it compile the blocks alone" in newest(handle).warnings[0]
    model.model.pipeline["compile_args"] = {"compile_transformer_blocks_only": True}
    wan_video.sample(fast)
    assert newest(handle).skipped > 0


def test_skip_layer_guidance(model: Any) -> None:
    """Its part of the run is no continuation of the rest; and an end of the stack must run."""
    guided = {"blocks": [1], "start_percent": 0.3, "end_percent": 0.6}
    native = wan_video.sample(model, slg_args=guided)
    fast, handle = cached(model)
    assert error(wan_video.sample(fast, slg_args=guided), native) < 0.02
    reused, handle = cached(model, SKIP_ALL, **REUSE)
    wan_video.sample(reused, slg_args=guided)
    begins = newest(handle).records[6]
    assert (begins.step, begins.reason) == (6, Reason.MISMATCH)
    native = wan_video.sample(model, slg_args={**guided, "blocks": [2]})
    faithful, handle = cached(model, SKIP_ALL, mode="faithful")
    out = wan_video.sample(faithful, slg_args={**guided, "blocks": [2]})
    assert torch.equal(out, native)
    assert "leaves out the first or the last block" in newest(handle).warnings[0]


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


@pytest.mark.parametrize("mode", ["forecast", "faithful"])
def test_an_interruption_leaves_the_model_as_it_was(model: Any, mode: str) -> None:
    import comfy.model_management as management

    fast, handle = cached(model, mode=mode)
    expected = wan_video.sample(fast)

    def interrupt(module: Any, args: Any, given: dict[str, Any]) -> None:
        if given["current_step"] == 5:
            raise management.InterruptProcessingException

    hook = transformer(model).register_forward_pre_hook(interrupt, with_kwargs=True)
    with pytest.raises(management.InterruptProcessingException):
        wan_video.sample(fast)
    hook.remove()
    assert newest(handle).outcome == "interrupted" and len(newest(handle).records) == 5
    assert "forward" not in vars(transformer(model))
    assert torch.equal(wan_video.sample(fast), expected)


def test_a_skipped_step_hears_an_interruption(model: Any) -> None:
    import comfy.model_management as management

    fast, handle = cached(model)
    wan_video.sample(fast)
    skipped = next(record.step for record in newest(handle).records if record.skipped)

    def interrupt(module: Any, args: Any, given: dict[str, Any]) -> None:
        if given["current_step"] == skipped:
            management.interrupt_current_processing()

    hook = transformer(model).register_forward_pre_hook(interrupt, with_kwargs=True)
    with pytest.raises(management.InterruptProcessingException):
        wan_video.sample(fast)
    hook.remove()
    assert len(newest(handle).records) == skipped


def test_other_models_and_the_preset_learn_are_not_taken(model: Any) -> None:
    from teacache.hosts.comfyui.wan_video import apply_to_wan_video

    with pytest.raises(ConfigError, match=r"^preset: learn is not offered for models of WanVideo"):
        apply_to_wan_video(model, TeaCacheConfig(preset="learn"))
    model.model.diffusion_model = torch.nn.Linear(1, 1)
    clone, handle = apply_to_wan_video(model, TeaCacheConfig(rel_l1_thresh=None))
    assert handle is None and clone is not model


def test_a_wanted_speedup_is_kept(model: Any) -> None:
    fast, handle = cached(model, preset="2.0x")
    wan_video.sample(fast)
    assert 9 <= newest(handle).computed <= 11
    assert newest(handle).preset == "2.0x"
