"""The demo model as diffusers pipelines: its own text encoder under StableDiffusion3Pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import load_file

from ...demo.model import (
    AUTOENCODER_CONFIG,
    EXPORTED_TEXT,
    MODELS,
    SCHEDULER_CONFIG,
    TEXT_FILE,
    TEXT_PARTS,
    TRANSFORMER_FILE,
    VAE_FILE,
    DemoText,
    transformer_config,
    vae_to_diffusers,
)

Texts = str | list[str]


def load_diffusers(folder: str | Path) -> tuple[Any, DemoText]:
    """Loads a folder made by `export_diffusers`.

        pipe, text = load_diffusers(folder)
        pipe(**text("red apple"), **negative(text("")), num_inference_steps=30, guidance_scale=3.0)

    Returns:
        A StableDiffusion3Pipeline in float32, and the text encoder for its prompts.
    """
    pipeline: Any = diffusers.StableDiffusion3Pipeline
    absent = dict.fromkeys(TEXT_PARTS)
    pipe = pipeline.from_pretrained(folder, **absent).to(torch.float32)
    return pipe, DemoText.load(Path(folder) / EXPORTED_TEXT)


class _DemoPrompts:
    """Encodes prompts with the demo model's text encoder; the rest is the pipeline's own."""

    demo_text: DemoText

    def encode_prompt(
        self,
        prompt: Texts,
        *_: Any,
        negative_prompt: Texts | None = None,
        do_classifier_free_guidance: bool = True,
        device: torch.device | None = None,
        num_images_per_prompt: int = 1,
        **__: Any,
    ) -> tuple[torch.Tensor | None, ...]:
        dtype = self.transformer.dtype  # type: ignore[attr-defined]
        texts = [prompt] if isinstance(prompt, str) else prompt
        against = negative_prompt or ""
        negatives = [against] * len(texts) if isinstance(against, str) else against

        def encode(words: list[str]) -> list[torch.Tensor]:
            encoded = self.demo_text(words)
            names = ("prompt_embeds", "pooled_prompt_embeds")
            ready = (encoded[name].to(device=device, dtype=dtype) for name in names)
            return [each.repeat_interleave(num_images_per_prompt, dim=0) for each in ready]

        tokens, pooled = encode(texts)
        if not do_classifier_free_guidance:
            return tokens, None, pooled, None
        against_tokens, against_pooled = encode(negatives)
        return tokens, against_tokens, pooled, against_pooled


class DemoPipeline(_DemoPrompts, diffusers.StableDiffusion3Pipeline):  # type: ignore[misc]
    """Text to image."""

    def with_image(self) -> DemoImagePipeline:
        """The same model, starting from a picture."""
        pipe = DemoImagePipeline(**self.components)
        pipe.demo_text = self.demo_text
        return pipe


class DemoImagePipeline(_DemoPrompts, diffusers.StableDiffusion3Img2ImgPipeline):  # type: ignore[misc]
    """Image to image."""


def load_demo(dtype: torch.dtype, folder: Path | None = None) -> DemoPipeline:
    """Loads the demo model as shipped, or from a folder made by `export_diffusers`."""
    pipe = _exported(folder) if folder is not None else _shipped()
    return pipe if dtype is torch.float32 else pipe.to(dtype)


def _exported(folder: Path) -> DemoPipeline:
    exported, text = load_diffusers(folder)
    pipe = DemoPipeline(**exported.components)
    pipe.demo_text = text
    return pipe


def _shipped() -> DemoPipeline:
    weights = load_file(str(MODELS / TRANSFORMER_FILE))
    parts = {
        "transformer": (diffusers.SD3Transformer2DModel, transformer_config(weights), weights),
        "vae": (
            diffusers.AutoencoderTiny,
            AUTOENCODER_CONFIG,
            vae_to_diffusers(load_file(str(MODELS / VAE_FILE))),
        ),
    }
    models: dict[str, Any] = {}
    for name, (kind, config, state) in parts.items():
        models[name] = kind.from_config(config)
        models[name].load_state_dict(state)
        models[name].eval()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(SCHEDULER_CONFIG)
    pipe = DemoPipeline(scheduler=scheduler, **models, **dict.fromkeys(TEXT_PARTS))
    pipe.demo_text = DemoText.load(MODELS / TEXT_FILE)
    return pipe
