"""Pipelines that keep attention keys from step to step, or continue film and sound together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

import tiny_transformers
from pipeline_sampling import SKIP_ALL, SKIP_NONE, report_of
from tiny_pipelines import TOKENS, flow, noise
from tiny_transformers import TEXT_WIDTH

from teacache.hosts.common import SEVERAL_VALUES
from teacache.hosts.diffusers.enable import teacache

STEPS = 12


class Processor:
    """Knows what the pipeline asks of it when it is made; prompts are passed as embeddings."""

    tokenizer = SimpleNamespace(encode=lambda text: [0])

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> list[list[int]]:
        return [[0]]


def qwen_image_21(use_kv_cache: bool) -> Any:
    """Calls a pipeline of Qwen-Image 2.1 and returns it with the latents."""
    from diffusers import QwenImage21Pipeline

    transformer = tiny_transformers.build("qwen_image21")
    pipe = QwenImage21Pipeline(flow(), None, None, Processor(), transformer)

    def generate() -> torch.Tensor:
        latents: torch.Tensor = pipe(
            height=64,
            width=64,
            true_cfg_scale=3.0,
            prompt_embeds=noise(1, 1, 8, TEXT_WIDTH),
            negative_prompt_embeds=noise(2, 1, 8, TEXT_WIDTH),
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
            use_kv_cache=use_kv_cache,
        )[0]
        return latents

    return pipe, generate


def kandinsky6() -> Any:
    """Calls a pipeline of Kandinsky 6, and returns it with the latents of film and sound."""
    from diffusers import Kandinsky6TI2VAPipeline

    transformer = tiny_transformers.build("kandinsky6")
    pipe = Kandinsky6TI2VAPipeline(transformer, None, None, None, None, None, flow())
    vars(pipe).update(audio_vae=SimpleNamespace(), vocoder=SimpleNamespace())
    pipe.audio_latent_hop_length = 8000
    texts = {}
    for seed, prefix in ((1, ""), (2, "negative_")):
        texts[f"{prefix}prompt_embeds"] = noise(seed, 1, TOKENS, TEXT_WIDTH)
        texts[f"{prefix}pooled_prompt_embeds"] = noise(seed + 10, 1, 12)

    def generate() -> torch.Tensor:
        out = pipe(
            height=32,
            width=32,
            num_frames=5,
            num_inference_steps=STEPS,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
            **texts,
        )
        film, sound = out.values()
        return torch.cat([film.flatten(), sound.flatten()])

    return pipe, generate


PIPELINES = {
    "qwen_image21": lambda: qwen_image_21(True),
    "qwen_image21_without_keys": lambda: qwen_image_21(False),
    "kandinsky6": kandinsky6,
}


@pytest.fixture
def made(name: str) -> Any:
    pipe, generate = PIPELINES[name]()
    pipe.set_progress_bar_config(disable=True)
    return pipe, generate


every_pipeline = pytest.mark.parametrize("name", list(PIPELINES))


@every_pipeline
def test_without_skips_the_latents_are_bit_identical(name: str, made: Any) -> None:
    pipe, generate = made
    native = generate()
    for config in ({"rel_l1_thresh": 0.0}, {"rel_l1_thresh": SKIP_NONE, "mode": "faithful"}):
        with teacache(pipe, **config) as handle:
            assert torch.equal(generate(), native)
        assert report_of(handle).skipped == 0
    assert torch.equal(generate(), native)


@every_pipeline
def test_all_steps_but_the_first_and_the_last_may_be_skipped(name: str, made: Any) -> None:
    """The second step too: the calls that fill the cache of keys are those of the same branch."""
    pipe, generate = made
    native = generate()
    with teacache(pipe, SKIP_ALL, mode="faithful") as handle:
        out = generate()
    report = report_of(handle)
    assert [record.skipped for record in report.records] == [False, *[True] * (STEPS - 2), False]
    assert not report.warnings
    assert (out - native).norm() < 0.1 * native.norm()


@every_pipeline
def test_the_default_forecasts(name: str, made: Any) -> None:
    pipe, generate = made
    native = generate()
    with teacache(pipe) as handle:
        out = generate()
    report = report_of(handle)
    assert report.skipped >= 4
    assert (out - native).norm() < 0.06 * native.norm()
    several = handle.family.returns_several
    assert [SEVERAL_VALUES in warning for warning in report.warnings] == [True] * several
    assert report.cached == ("residual" if several else "prediction")
