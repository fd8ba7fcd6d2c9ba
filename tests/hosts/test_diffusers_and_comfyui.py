"""One engine: ComfyUI's sampler and diffusers' pipelines take the same decisions, step for step.

The same weights, noise and noise levels run through both hosts. ComfyUI evaluates the branches of
guidance in one batch, the pipelines of FLUX and Wan in two calls.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from sampling import cached, report_of

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")
pytestmark = pytest.mark.usefixtures("comfy")

STEPS = 14
CFG = 3.0


@dataclass(frozen=True)
class Pair:
    """The two hosts of one model.

    comfyui: the patcher. pipe: the pipeline with the same weights. call: its arguments but those
    named below, given the conditioning. noise: shape of the noise in ComfyUI. pack: ComfyUI's
    latent as the pipeline holds it.
    """

    comfyui: Any
    pipe: Any
    positive: Any
    negative: Any
    cfg: float
    call: dict[str, Any]
    noise: torch.Tensor
    pack: Callable[[torch.Tensor], torch.Tensor]


def in_comfyui(pair: Pair, sigmas: torch.Tensor, threshold: float, **config: Any) -> Any:
    import comfy.sample
    import comfy.samplers

    model, handle = cached(pair.comfyui, threshold, **config)
    with torch.inference_mode():
        out = comfy.sample.sample_custom(
            model, pair.noise.clone(), pair.cfg, comfy.samplers.sampler_object("euler"), sigmas,
            pair.positive, pair.negative, torch.zeros_like(pair.noise), seed=0, disable_pbar=True,
        )  # fmt: skip
    return pair.comfyui.model.process_latent_in(out), report_of(handle)


def in_diffusers(pair: Pair, threshold: float, **config: Any) -> Any:
    from teacache.hosts.diffusers.enable import teacache

    with teacache(pair.pipe, threshold, **{"mode": "faithful", **config}) as handle:
        out = pair.pipe(
            **pair.call, num_inference_steps=STEPS, latents=pair.pack(pair.noise).clone(),
            output_type="latent", return_dict=False,
        )[0]  # fmt: skip
    report = handle.report_for()
    assert report is not None
    return out, report


def cond_tensors(cond: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    context, entries = cond[0]
    return context, entries.get("pooled_output")


def packed(latent: torch.Tensor) -> torch.Tensor:
    """FLUX's and Qwen-Image's tokens of 2 x 2 pixels."""
    if latent.ndim == 5:
        latent = latent[:, :, 0]
    rows, channels, height, width = latent.shape
    parts = latent.reshape(rows, channels, height // 2, 2, width // 2, 2)
    return parts.permute(0, 2, 4, 1, 3, 5).reshape(rows, height * width // 4, channels * 4)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.model.diffusion_model.state_dict().items()}


def flow(**config: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**config)


def noise(name: str) -> torch.Tensor:
    shape = (1, *tiny_models.TINY[name].latent)
    return torch.randn(shape, generator=torch.Generator().manual_seed(11))


def demo() -> Pair:
    import folder_paths  # noqa: F401  (ComfyUI's paths before its loaders)
    from comfy.sd import load_diffusion_model

    from teacache.demo.model import MODELS, TRANSFORMER_FILE, DemoText, negative

    text = DemoText.load()
    plus, minus = text("red apple"), text("")
    conds = [
        [[parts["prompt_embeds"], {"pooled_output": parts["pooled_prompt_embeds"]}]]
        for parts in (plus, minus)
    ]
    latent = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(11))
    patcher = load_diffusion_model(
        str(MODELS / TRANSFORMER_FILE), model_options={"dtype": torch.float32}
    )
    call = {**plus, **negative(minus), "guidance_scale": CFG, "height": 128, "width": 128}
    return Pair(patcher, None, *conds, CFG, call, latent, lambda x: x)


def demo_pair(folder: Path) -> Pair:
    from dataclasses import replace

    from teacache.demo.model import export_diffusers
    from teacache.hosts.diffusers.demo_pipeline import load_diffusers

    pipe, _ = load_diffusers(export_diffusers(folder))
    return replace(demo(), pipe=pipe)


def flux_weights(model: Any, wanted: Collection[str]) -> dict[str, torch.Tensor]:
    """ComfyUI's map of where each of diffusers' tensors lies, read backwards.

    Args:
        wanted: the tensors of the pipeline; the map of newer versions names those of FLUX.2 too.
    """
    import comfy.utils

    held, found = weights(model), {}
    sizes = {"depth": 2, "depth_single_blocks": 3, "hidden_size": tiny_models.WIDTH}
    for name, place in comfy.utils.flux_to_diffusers(sizes).items():
        key, part, *change = (place, None) if isinstance(place, str) else place
        value = held.get(key, held.get(key.replace("_norm.scale", "_norm.weight")))
        if value is not None and name in wanted:
            value = value if part is None else value.narrow(*part)
            found[name] = change[0](value) if change else value
    return found


def flux_pair(folder: Path) -> Pair:
    from diffusers import FluxPipeline, FluxTransformer2DModel

    model = tiny_models.build("flux1")
    transformer = FluxTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=3,
        num_attention_heads=2,
        joint_attention_dim=64,
        guidance_embeds=True,
    )
    transformer.load_state_dict(flux_weights(model, transformer.state_dict().keys()))
    pipe = FluxPipeline(
        scheduler=flow(shift=1.0), vae=None, text_encoder=None, tokenizer=None,
        text_encoder_2=None, tokenizer_2=None, transformer=transformer.eval(),
    )  # fmt: skip
    plus, minus = tiny_models.cond("flux1", 1), tiny_models.cond("flux1", 2)
    (text, pooled), (negative, negative_pooled) = cond_tensors(plus), cond_tensors(minus)
    call = {
        "prompt_embeds": text, "pooled_prompt_embeds": pooled, "negative_prompt_embeds": negative,
        "negative_pooled_prompt_embeds": negative_pooled, "true_cfg_scale": CFG,
        "guidance_scale": 3.5, "height": 64, "width": 64,
    }  # fmt: skip
    return Pair(model, pipe, plus, minus, CFG, call, noise("flux1"), packed)


def qwen_pair(folder: Path) -> Pair:
    """Without guidance: the pipeline rescales the guided prediction, which ComfyUI does not."""
    from diffusers import QwenImagePipeline, QwenImageTransformer2DModel

    model = tiny_models.build("qwen_image")
    transformer = QwenImageTransformer2DModel(
        num_layers=tiny_models.DEPTH, num_attention_heads=2, joint_attention_dim=64
    )
    transformer.load_state_dict(weights(model))
    pipe = QwenImagePipeline(
        scheduler=flow(shift=1.0), vae=None, text_encoder=None, tokenizer=None,
        transformer=transformer.eval(),
    )  # fmt: skip
    plus = tiny_models.cond("qwen_image", 1)
    text, _ = cond_tensors(plus)
    call = {
        "prompt_embeds": text, "prompt_embeds_mask": torch.ones(text.shape[:2], dtype=torch.long),
        "true_cfg_scale": 1.0, "height": 64, "width": 64,
    }  # fmt: skip
    return Pair(model, pipe, plus, plus, 1.0, call, noise("qwen_image"), packed)


def wan_pair(folder: Path) -> Pair:
    from diffusers import WanPipeline, WanTransformer3DModel
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    model = tiny_models.build("wan21")
    transformer = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=128, text_dim=64, freq_dim=64, ffn_dim=512,
        num_layers=tiny_models.DEPTH,
    )  # fmt: skip
    transformer.load_state_dict(convert_wan_transformer_to_diffusers(weights(model)))
    pipe = WanPipeline(
        tokenizer=None, text_encoder=None, vae=None, scheduler=flow(shift=3.0),
        transformer=transformer.eval(),
    )  # fmt: skip
    plus, minus = tiny_models.cond("wan21", 1), tiny_models.cond("wan21", 2)
    call = {
        "prompt_embeds": cond_tensors(plus)[0], "negative_prompt_embeds": cond_tensors(minus)[0],
        "guidance_scale": CFG, "height": 64, "width": 64, "num_frames": 5,
    }  # fmt: skip
    return Pair(model, pipe, plus, minus, CFG, call, noise("wan21"), lambda x: x)


CASES: dict[str, tuple[Callable[[Path], Pair], list[float]]] = {
    "demo": (demo_pair, [0.15, 0.25, 0.4, 0.6, 1.0]),
    "flux1": (flux_pair, [0.19, 0.3, 0.45, 0.7, 1.5, 4.0]),
    "qwen_image": (qwen_pair, [0.02, 0.1, 0.3, 1.0, 4.0]),
    "wan21": (wan_pair, [0.08, 0.12, 0.2, 0.3, 0.5]),
}


FORECASTS = {
    "demo": [0.3, 0.8, 2.0, 4.0],
    "flux1": [0.2, 0.5, 2.0, 8.0],
    "qwen_image": [0.5, 2.0, 4.0, 8.0],
    "wan21": [0.5, 2.0, 4.0, 8.0],
}
"""Thresholds of the forecast mode: tiny models with random weights change fast."""


@pytest.mark.parametrize("mode", ["faithful", "forecast"])
@pytest.mark.parametrize("name", list(CASES))
def test_both_hosts_decide_alike(name: str, mode: str, tmp_path: Path) -> None:
    build, thresholds = CASES[name]
    pair = build(tmp_path)
    pair.pipe.set_progress_bar_config(disable=True)
    patterns = set()
    for threshold in thresholds if mode == "faithful" else FORECASTS[name]:
        ours, here = in_diffusers(pair, threshold, mode=mode)
        theirs, there = in_comfyui(pair, torch.tensor(here.sigmas), threshold, mode=mode)
        assert here.sigmas == pytest.approx(there.sigmas)
        assert (here.family, here.profile) == (there.family, there.profile)
        assert here.method == there.method == mode
        assert [r.skipped for r in here.records] == [r.skipped for r in there.records], threshold
        assert [r.reason for r in here.records] == [r.reason for r in there.records]
        for one, other in zip(here.records, there.records, strict=True):
            assert one.accumulated == pytest.approx(other.accumulated, rel=2e-3, abs=1e-5)
        assert not here.warnings
        scale = theirs.abs().max()
        assert (ours - pair.pack(theirs)).abs().max() <= 1e-3 * scale
        patterns.add(tuple(r.skipped for r in here.records))
    assert len(patterns) >= 3, f"the thresholds do not tell schedules apart: {patterns}"
