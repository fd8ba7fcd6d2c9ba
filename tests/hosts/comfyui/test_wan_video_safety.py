"""What is left alone or refused on models of ComfyUI-WanVideoWrapper, and what a stop leaves."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import wan_video
from wan_video import REUSE, SKIP_ALL, blocks_run, cached, error, newest, transformer

from teacache.config import TeaCacheConfig
from teacache.errors import ConfigError
from teacache.report import Reason


@pytest.fixture(scope="module", autouse=True)
def stand_in(pack: ModuleType) -> Iterator[None]:
    with wan_video.pack_loaded():
        yield


@pytest.fixture
def model() -> Any:
    return wan_video.model()


def test_an_unknown_scheduler_is_not_forecast(model: Any) -> None:
    native = wan_video.sample(model, scheduler="unheard of")
    fast, handle = cached(model, SKIP_ALL)
    blocks_run(model)
    wan_video.sample(fast, scheduler="unheard of")
    report = newest(handle)
    assert report.method == "faithful"
    assert "what it does between the steps is not known" in report.warnings[0]
    assert blocks_run(model) == 2 * report.computed
    slow, _ = cached(model, 1e-12)
    assert torch.equal(wan_video.sample(slow, scheduler="unheard of"), native)


@pytest.mark.parametrize("scheduler", ["lcm", "dpm++_sde"])
def test_the_denoised_latent_is_continued_across_noise(
    model: Any, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a skipped step denoises to lies on the line through the two computed before it."""
    native = wan_video.sample(model, scheduler=scheduler, cfg=1.0)
    kind = wan_video.scheduler_class(scheduler)
    stepped, denoised = kind.step, []

    def step(self: Any, output: Any, timestep: Any, sample: Any, generator: Any = None) -> Any:
        denoised.append((sample - self.sigmas[len(denoised)] * output).flatten())
        return stepped(self, output, timestep, sample, generator)

    monkeypatch.setattr(kind, "step", step)
    fast, handle = cached(model, 3.0)
    blocks_run(model)
    wan_video.sample(fast, scheduler=scheduler, cfg=1.0)
    report = newest(handle)
    assert report.method == "forecast" and not report.warnings
    assert report.skipped >= 3 and blocks_run(model) == report.computed
    computed: list[torch.Tensor] = []
    for record, value in zip(report.records, denoised, strict=True):
        if not record.skipped:
            computed.append(value)
            continue
        way, moved = computed[-1] - computed[-2], value - computed[-1]
        off_the_line = moved - way * (moved @ way) / (way @ way)
        assert off_the_line.norm() < 1e-4 * value.norm()
    denoised.clear()
    slow, _ = cached(model, 1e-12)
    assert torch.equal(wan_video.sample(slow, scheduler=scheduler, cfg=1.0), native)


@pytest.mark.parametrize("scheduler", ["euler", "lcm"])
def test_channels_beside_the_latent_change_nothing(model: Any, scheduler: str) -> None:
    """The model is given more channels than it predicts, and the latent's come first."""
    fast, handle = cached(model, 3.0)
    plain = wan_video.sample(fast, scheduler=scheduler)
    skipped = newest(handle).skipped
    shape = (4, wan_video.FRAMES, 6, 6)
    embeds = {"target_shape": shape, "extra_channels": torch.ones(2, *shape[1:])}
    out = wan_video.sample(fast, scheduler=scheduler, image_embeds=embeds)
    assert not newest(handle).warnings and newest(handle).skipped == skipped >= 3
    assert torch.equal(out, plain)


@pytest.mark.parametrize("scheduler", ["euler", "lcm"])
def test_a_model_that_predicts_the_negative(model: Any, scheduler: str) -> None:
    fast, handle = cached(model, 3.0)
    plain = wan_video.sample(fast, scheduler=scheduler)
    skipped = newest(handle).skipped
    transformer(model).is_longcat = True
    transformer(model).head.weight.neg_()
    transformer(model).head.bias.neg_()
    assert torch.equal(wan_video.sample(fast, scheduler=scheduler), plain)
    assert not newest(handle).warnings and newest(handle).skipped == skipped >= 3


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
