"""Models whose blocks are not known, on diffusers' own pipelines: they are forecast."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

import tiny_unet_pipelines as tiny
from pipeline_sampling import SKIP_NONE, assert_nothing_is_left, report_of, state_of
from tiny_unet_pipelines import STEPS, generate
from torch import nn

from teacache.config import TeaCacheConfig
from teacache.errors import ConfigError
from teacache.hosts.diffusers.denoisers import denoisers_of, recognisable
from teacache.hosts.diffusers.enable import enable_teacache, teacache
from teacache.hosts.diffusers.loading import recognise
from teacache.hosts.diffusers.loop import OUT_OF_ORDER
from teacache.report import Reason

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
KINDS = ("epsilon", "v_prediction")
CLOSE = 5e-3
"""Relative error of the latents with the default settings; 8e-4 was the largest measured."""
HINT = "forecast only: the faithful mode needs to know the blocks"


def error_of(got: torch.Tensor, native: torch.Tensor) -> float:
    return float((got - native).norm() / native.norm())


@pytest.fixture(scope="module", params=PIPELINES)
def pipe(request: pytest.FixtureRequest) -> Any:
    return tiny.build(request.param)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheduler", list(tiny.SCHEDULERS))
def test_with_the_default_steps_are_skipped_and_the_picture_stays(
    pipe: Any, scheduler: str, kind: str
) -> None:
    pipe.scheduler = tiny.scheduler(scheduler, kind)
    native, before = generate(pipe), state_of(pipe)
    for threshold in (0.0, SKIP_NONE):
        with teacache(pipe, threshold) as handle:
            assert torch.equal(generate(pipe), native)
        assert not report_of(handle).skipped
    calls: list[int] = []
    hook = pipe.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    with teacache(pipe) as handle:
        got = generate(pipe)
        report = report_of(handle)
        assert torch.equal(generate(pipe), got)
    hook.remove()
    assert HINT in handle.describe()
    evaluations = STEPS + (scheduler == "PNDMScheduler")
    assert (report.steps, len(report.records)) == (STEPS, evaluations)
    assert report.method == "forecast" and report.outcome == "done" and not report.warnings
    assert report.skipped >= STEPS / 4 and not report.records[-1].skipped
    assert error_of(got, native) < CLOSE
    assert state_of(pipe) == before and "forward" not in vars(pipe.unet)
    assert "step" not in vars(pipe.scheduler)
    assert_nothing_is_left(pipe)


def test_a_skip_runs_nothing_of_the_unet(pipe: Any) -> None:
    pipe.scheduler = tiny.scheduler("DDIMScheduler")
    calls: list[int] = []
    hook = pipe.unet.conv_in.register_forward_pre_hook(lambda *_: calls.append(1))
    with teacache(pipe) as handle:
        generate(pipe)
    hook.remove()
    assert len(calls) == report_of(handle).computed < STEPS


@pytest.mark.parametrize("settings", [{"mode": "faithful"}, {"cached": "residual"}])
def test_what_needs_the_blocks_is_forecast_and_says_so(pipe: Any, settings: dict[str, Any]) -> None:
    pipe.scheduler = tiny.scheduler("DDIMScheduler")
    with teacache(pipe, **settings) as handle:
        generate(pipe)
    report = report_of(handle)
    assert report.method == "forecast" and report.skipped
    assert report.warnings[0].lower() == f"{HINT}."


def test_the_loader_knows_it(pipe: Any) -> None:
    done, why_not = recognise(pipe, TeaCacheConfig())
    assert HINT in done and not why_not


def test_zeros_do_not_reach_rescaled_guidance(pipe: Any) -> None:
    """`guidance_rescale` divides by the deviation of the prediction, which is 0 on a skip."""
    pipe.scheduler = tiny.scheduler("DDIMScheduler", "v_prediction")
    native = generate(pipe, guidance_rescale=0.7)
    with teacache(pipe) as handle:
        got = generate(pipe, guidance_rescale=0.7)
    assert report_of(handle).skipped and error_of(got, native) < CLOSE


@pytest.mark.parametrize("channels", [4, 9])
def test_inpainting_and_image_to_image(channels: int) -> None:
    from PIL import Image

    mask = Image.new("L", (tiny.SIZE, tiny.SIZE))
    mask.paste(255, (0, 0, 16, 32))
    pipe = tiny.build("StableDiffusionInpaintPipeline", unet=tiny.unet(channels))
    changes = {"image": tiny.picture(), "mask_image": mask, "strength": 0.8}
    native = generate(pipe, **changes)
    with teacache(pipe) as handle:
        got = generate(pipe, **changes)
    report = report_of(handle)
    assert report.steps == len(report.records) == round(0.8 * STEPS) and report.skipped
    assert error_of(got, native) < CLOSE


def test_a_base_model_before_its_refiner() -> None:
    """The base leaves out the last noise levels, the refiner the first ones."""
    base = tiny.build("StableDiffusionXLPipeline")
    refiner = tiny.build("StableDiffusionXLImg2ImgPipeline", unet=base.unet, vae=base.vae)
    with teacache(base) as of_base:
        latents = generate(base, denoising_end=0.6)
    with teacache(refiner) as of_refiner:
        generate(refiner, image=latents, denoising_start=0.6, height=None, width=None)
    first, second = report_of(of_base), report_of(of_refiner)
    assert first.sigmas[0] > second.sigmas[0] and second.sigmas[-1] == 0.0
    assert first.sigmas[-1] == pytest.approx(second.sigmas[0])
    assert first.steps + second.steps == STEPS and not first.warnings and not second.warnings


def test_a_controlnet_is_no_denoiser_and_its_end_is_seen() -> None:
    from diffusers import ControlNetModel

    net = tiny.unet()
    control = ControlNetModel.from_unet(net, conditioning_embedding_out_channels=(4, 8))
    tiny.set_weights(control.eval())
    pipe = tiny.build("StableDiffusionControlNetPipeline", unet=net, controlnet=control)
    pipe.scheduler = tiny.scheduler("DDIMScheduler")
    assert list(denoisers_of(pipe)) == ["unet", "controlnet"]
    assert list(recognisable(denoisers_of(pipe))) == ["unet"]
    changes = {"image": tiny.picture(), "control_guidance_end": 0.5}
    native = generate(pipe, **changes)
    with teacache(pipe) as handle:
        got = generate(pipe, **changes)
    records = report_of(handle).records
    assert records[STEPS // 2].reason is Reason.MISMATCH and report_of(handle).skipped
    assert error_of(got, native) < CLOSE


def test_a_lora_changes_the_picture_and_is_kept(pipe: Any) -> None:
    """As its packages do it: layers of their own in the place of linear ones."""

    class LoRA(nn.Module):
        def __init__(self, base: nn.Linear) -> None:
            super().__init__()
            self.base = base
            self.down = nn.Linear(base.in_features, 2, bias=False)
            self.up = nn.Linear(2, base.out_features, bias=False)
            tiny.set_weights(self.down, 1)
            tiny.set_weights(self.up, 2)

        def forward(self, x: torch.Tensor, *args: Any) -> torch.Tensor:
            return self.base(x) + self.up(self.down(x))

    pipe.scheduler = tiny.scheduler("DDIMScheduler")
    plain = generate(pipe)
    changed = [m for m in pipe.unet.modules() if hasattr(m, "to_q")]
    for attention in changed:
        attention.to_q = LoRA(attention.to_q)
    try:
        native = generate(pipe)
        with teacache(pipe) as handle:
            got = generate(pipe)
    finally:
        for attention in changed:
            attention.to_q = attention.to_q.base
    assert not torch.equal(native, plain)
    assert report_of(handle).skipped and error_of(got, native) < CLOSE


def test_a_unet_without_text() -> None:
    """DDIMPipeline: its loop iterates over the progress bar."""
    from diffusers import DDIMPipeline, UNet2DModel

    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    tiny.set_weights(unet.eval())
    pipe = DDIMPipeline(unet, tiny.scheduler("DDIMScheduler"))
    pipe.set_progress_bar_config(disable=True)

    def run() -> torch.Tensor:
        start = torch.Generator().manual_seed(0)
        out = pipe(generator=start, num_inference_steps=STEPS, output_type="np")
        return torch.from_numpy(out.images)

    native = run()
    with teacache(pipe) as handle:
        got = run()
    assert report_of(handle).steps == STEPS and report_of(handle).skipped
    assert error_of(got, native) < CLOSE


def test_views_of_one_panorama_are_not_taken_for_steps() -> None:
    """A pipeline that evaluates several windows at each noise level runs as without the cache."""
    pipe = tiny.build("StableDiffusionPanoramaPipeline", scheduler=tiny.scheduler("DDIMScheduler"))
    changes = {"width": 1024, "height": 512, "view_batch_size": 1}
    native = generate(pipe, steps=4, **changes)
    with teacache(pipe, 90.0) as handle:
        assert torch.equal(generate(pipe, steps=4, **changes), native)
    (warning,) = report_of(handle).warnings
    assert OUT_OF_ORDER in warning


def test_pipelines_of_pipelines_are_refused() -> None:
    from diffusers import StableCascadeCombinedPipeline

    names = inspect.signature(StableCascadeCombinedPipeline).parameters
    pipe = StableCascadeCombinedPipeline(**dict.fromkeys(names))
    with pytest.raises(ConfigError, match=r"enable TeaCache on pipe\.prior_pipe and pipe\.decoder"):
        enable_teacache(pipe)
