"""Tiny diffusers pipelines with random weights.

There are no text encoders: prompts are passed as embeddings. Autoencoders exist only where a
pipeline encodes an image. Every call returns latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

LAYERS = 4
STEPS = 6
TOKENS = 5
NEGATIVE = "negative_"


@dataclass(frozen=True)
class TinyPipeline:
    """How to build and call one pipeline.

    Attributes:
        family: Id of the model family.
        build: Returns the pipeline, its weights not yet set.
        inputs: Returns the arguments of a call, without steps and seed.
        guidance: How the branches are evaluated: `two calls`, `one batch`, or `none`.
        unguided: Arguments that turn guidance off.
        prepare: Changes the pipeline after its weights are set.
        flow: Whether its scheduler is a flow-matching one.
    """

    family: str
    build: Callable[[], Any]
    inputs: Callable[[], dict[str, Any]]
    guidance: str = "two calls"
    unguided: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Any], None] = lambda pipe: None
    flow: bool = True


def noise(seed: int, *shape: int) -> torch.Tensor:
    """Seeded normal noise."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def image(size: int = 32) -> Any:
    """A square RGB image with a gradient."""
    from PIL import Image

    return Image.linear_gradient("L").resize((size, size)).convert("RGB")


def flow(**config: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**config)


def set_weights(module: nn.Module, seed: int = 0) -> None:
    """Sets seeded random weights, scaled so that hidden states neither grow nor vanish."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in module.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.6 / parameter[0].numel() ** 0.5)
            else:
                nn.init.normal_(parameter, std=0.05)


def build(name: str) -> Any:
    """The pipeline `name` with weights set and its progress bar off."""
    tiny = TINY[name]
    pipe = tiny.build()
    for seed, module in enumerate(pipe.components.values()):
        if isinstance(module, nn.Module):
            set_weights(module.eval(), seed)
    tiny.prepare(pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe: Any, name: str, *, steps: int = STEPS, seed: int = 0, **changes: Any) -> Any:
    """The latents of one call."""
    inputs = {**TINY[name].inputs(), **changes}
    with small_images():
        out = pipe(
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(seed),
            output_type="latent",
            **inputs,
        )
    return out[0] if isinstance(out, tuple) else next(iter(out.values()))


@contextmanager
def small_images() -> Iterator[None]:
    """Makes Qwen's edit pipelines scale images to 32 x 32 pixels instead of one megapixel."""
    with ExitStack() as stack:
        for module, size in (("edit", (32, 32, None)), ("edit_plus", (32, 32))):
            path = f"diffusers.pipelines.qwenimage.pipeline_qwenimage_{module}.calculate_dimensions"
            stack.enter_context(patch(path, return_value=size))
        yield


def transformers(pipe: Any) -> list[nn.Module]:
    """The pipeline's transformers: one, or two experts."""
    modules = [pipe.components.get(name) for name in ("transformer", "transformer_2")]
    return [module for module in modules if module is not None]


def stack_blocks(transformer: nn.Module) -> list[nn.Module]:
    """The transformer's own blocks, by the paths of its family."""
    from teacache.families.registry import find_family

    family = find_family(transformer)
    assert family is not None
    return [
        block
        for blocks in family.block_lists
        for block in transformer.get_submodule(blocks.path).children()
    ]


def prompts(width: int, pooled: int | None = None, mask: str | None = None) -> dict[str, Any]:
    """Embeddings of a prompt and of a negative prompt.

    Args:
        width: Of the embeddings.
        pooled: Width of the pooled embeddings, None for none.
        mask: Name of the attention masks' argument, None for none.
    """
    inputs: dict[str, Any] = {}
    for seed, prefix in ((1, ""), (2, NEGATIVE)):
        inputs[f"{prefix}prompt_embeds"] = noise(seed, 1, TOKENS, width)
        if pooled is not None:
            inputs[f"{prefix}pooled_prompt_embeds"] = noise(seed + 10, 1, pooled)
        if mask is not None:
            inputs[f"{prefix}{mask}"] = torch.ones(1, TOKENS, dtype=torch.long)
    return inputs


def float_masks(inputs: dict[str, Any]) -> dict[str, Any]:
    """`inputs` with every tensor as float32."""
    return {name: value.float() for name, value in inputs.items()}


def damp_time_embedding(layer: nn.Module) -> None:
    """Makes a time embedding change as little from step to step as a trained one does."""
    layer.bias.data += 10.0


def positive(inputs: dict[str, Any]) -> dict[str, Any]:
    """`inputs` without the negative prompt."""
    return {name: value for name, value in inputs.items() if not name.startswith(NEGATIVE)}


def kl_vae(channels: int = 4) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=[8, 8],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=channels,
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=32,
        shift_factor=0.0,
        scaling_factor=1.0,
    )


def qwen_vae() -> Any:
    from diffusers import AutoencoderKLQwenImage

    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=16,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.0] * 16,
        latents_std=[1.0] * 16,
    )


SMALL = {"height": 64, "width": 64}
GUIDED = {"guidance_scale": 3.0}
NO_GUIDANCE = {"guidance_scale": 1.0}
NO_CFG = {"true_cfg_scale": 1.0}

from tiny_flux_pipelines import FLUX_AND_QWEN  # noqa: E402  (they need what is above)
from tiny_image_pipelines import IMAGE  # noqa: E402
from tiny_video_pipelines import VIDEO  # noqa: E402

TINY: dict[str, TinyPipeline] = FLUX_AND_QWEN | IMAGE | VIDEO
