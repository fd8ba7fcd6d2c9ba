"""Families of image models, as the transformer classes of diffusers 0.42 define them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from ..comfyui.image import (
    AURAFLOW,
    CHROMA,
    DEMO_LAYERS,
    FLUX1,
    FLUX2,
    HIDREAM,
    LUMINA2,
    PIXART,
    QWEN_IMAGE,
    SD3,
    Z_IMAGE,
    single_stream_blocks,
)
from ..spec import Family
from ..streams import BlockList, Role, Stream
from .modulation import (
    ada_norm_block,
    chroma_block,
    flux2_block,
    lumina2_block,
    table_block,
    z_image_block,
)

MODELS = "diffusers.models.transformers."
IMAGE = Stream(Role.IMAGE, 0, "hidden_states")
TEXT = Stream(Role.TEXT, 1, "encoder_hidden_states")


def dual_stream_blocks(path: str, text_first: bool = True) -> BlockList:
    """A block list whose blocks take the streams of image and text and return both.

    Args:
        path: dotted name of the list in the transformer.
        text_first: whether the blocks return (text, image), not (image, text).
    """
    outputs = (Role.TEXT, Role.IMAGE) if text_first else (Role.IMAGE, Role.TEXT)
    return BlockList(path, inputs=(IMAGE, TEXT), outputs=outputs)


def joined_stream_blocks(path: str) -> BlockList:
    """A block list whose blocks take and return one stream, text tokens before image tokens."""
    stream = Stream(Role.TEXT_IMAGE, 0, "hidden_states")
    return BlockList(path, inputs=(stream,), outputs=(Role.TEXT_IMAGE,))


DOUBLE = dual_stream_blocks("transformer_blocks")
SINGLE = "single_transformer_blocks"


def _sd3_profile(transformer: Any) -> str:
    return "demo" if len(transformer.transformer_blocks) == DEMO_LAYERS else "sd3-uncalibrated"


DIFFUSERS_SD3 = replace(
    SD3,
    classes=(MODELS + "transformer_sd3.SD3Transformer2DModel",),
    block_lists=(DOUBLE,),
    modulated_input=ada_norm_block,
    default_profile=_sd3_profile,
)

DIFFUSERS_FLUX1 = replace(
    FLUX1,
    classes=(MODELS + "transformer_flux.FluxTransformer2DModel",),
    block_lists=(DOUBLE, dual_stream_blocks(SINGLE)),
    modulated_input=ada_norm_block,
    matches=lambda transformer: True,
)

DIFFUSERS_FLUX2 = replace(
    FLUX2,
    classes=(MODELS + "transformer_flux2.Flux2Transformer2DModel",),
    block_lists=(DOUBLE, joined_stream_blocks(SINGLE)),
    modulated_input=flux2_block,
    matches=lambda transformer: True,
    default_profile=lambda transformer: (
        "flux2-uncalibrated" if transformer.config.guidance_embeds else "flux2-klein-base"
    ),
    indicator_depends_on_text=False,
)

DIFFUSERS_CHROMA = replace(
    CHROMA,
    classes=(MODELS + "transformer_chroma.ChromaTransformer2DModel",),
    block_lists=(DOUBLE, joined_stream_blocks(SINGLE)),
    modulated_input=chroma_block,
    indicator_depends_on_text=False,
)

DIFFUSERS_QWEN_IMAGE = replace(
    QWEN_IMAGE,
    classes=(MODELS + "transformer_qwenimage.QwenImageTransformer2DModel",),
    indicator_depends_on_text=False,
)

DIFFUSERS_LUMINA2 = replace(
    LUMINA2,
    classes=(MODELS + "transformer_lumina2.Lumina2Transformer2DModel",),
    block_lists=(single_stream_blocks("layers", "hidden_states"),),
    modulated_input=lumina2_block,
    matches=lambda transformer: True,
)

DIFFUSERS_Z_IMAGE = replace(
    Z_IMAGE,
    classes=(MODELS + "transformer_z_image.ZImageTransformer2DModel",),
    modulated_input=z_image_block,
    matches=lambda transformer: True,
)


def _hidream_time_embedding(transformer: Any, timesteps: Tensor) -> Tensor:
    """HiDream's timestep embedding [n, width], without the pooled text."""
    weight = next(transformer.x_embedder.parameters())
    embedding: Tensor = transformer.t_embedder(timesteps, weight.dtype)
    return embedding


DIFFUSERS_HIDREAM = replace(
    HIDREAM,
    classes=(MODELS + "transformer_hidream_image.HiDreamImageTransformer2DModel",),
    block_lists=(
        BlockList(
            "double_stream_blocks",
            inputs=(IMAGE, Stream(Role.TEXT, 2, "encoder_hidden_states")),
            outputs=(Role.IMAGE, Role.TEXT),
        ),
        BlockList(
            "single_stream_blocks",
            inputs=(Stream(Role.IMAGE_TEXT, 0, "hidden_states"),),
            outputs=(Role.IMAGE_TEXT,),
        ),
    ),
    embed_timesteps=_hidream_time_embedding,
)

DIFFUSERS_AURAFLOW = replace(
    AURAFLOW,
    classes=(MODELS + "auraflow_transformer_2d.AuraFlowTransformer2DModel",),
    block_lists=(dual_stream_blocks("joint_transformer_blocks"), joined_stream_blocks(SINGLE)),
    modulated_input=ada_norm_block,
    indicator_depends_on_text=False,
)

DIFFUSERS_PIXART = replace(
    PIXART,
    classes=(MODELS + "pixart_transformer_2d.PixArtTransformer2DModel",),
    block_lists=(single_stream_blocks("transformer_blocks", "hidden_states"),),
    modulated_input=table_block,
    indicator_depends_on_text=False,
)

DIFFUSERS_SANA = Family(
    id="sana",
    name="Sana",
    classes=(MODELS + "sana_transformer.SanaTransformer2DModel",),
    block_lists=(single_stream_blocks("transformer_blocks", "hidden_states"),),
    modulated_input=table_block,
    default_profile=lambda transformer: "sana-uncalibrated",
    indicator_depends_on_text=False,
)

DIFFUSERS_IMAGE_FAMILIES = (
    DIFFUSERS_SD3,
    DIFFUSERS_FLUX1,
    DIFFUSERS_FLUX2,
    DIFFUSERS_CHROMA,
    DIFFUSERS_QWEN_IMAGE,
    DIFFUSERS_LUMINA2,
    DIFFUSERS_Z_IMAGE,
    DIFFUSERS_HIDREAM,
    DIFFUSERS_AURAFLOW,
    DIFFUSERS_PIXART,
    DIFFUSERS_SANA,
)
