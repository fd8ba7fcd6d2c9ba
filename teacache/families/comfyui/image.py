"""Families of image models whose classes the oldest supported ComfyUI has."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..spec import Family
from ..streams import BlockList, Role, Stream
from .modulation import (
    aura_block,
    flux_double_block,
    hunyuan_dit_block,
    joint_block,
    lumina_block,
    omnigen_block,
    pixart_block,
    qwen_image_block,
)

DEMO_LAYERS = 5
"""Blocks of the demo model; no published SD3 model has so few."""


def single_stream_blocks(path: str, name: str) -> BlockList:
    """A block list whose blocks take one stream of tokens and return it.

    Args:
        path: dotted name of the list in the transformer.
        name: of the block's first parameter, which is the stream.
    """
    return BlockList(path, inputs=(Stream(Role.IMAGE, 0, name),), outputs=(Role.IMAGE,))


def _sd3_profile(transformer: Any) -> str:
    return "demo" if len(transformer.joint_blocks) == DEMO_LAYERS else "sd3-uncalibrated"


SD3 = Family(
    id="sd3",
    name="Stable Diffusion 3 / 3.5",
    classes=(
        "comfy.ldm.modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper",
        "comfy.ldm.modules.diffusionmodules.mmdit.MMDiT",
    ),
    block_lists=(
        BlockList(
            "joint_blocks",
            inputs=(Stream(Role.TEXT, 0, "context"), Stream(Role.IMAGE, 1, "x")),
            outputs=(Role.TEXT, Role.IMAGE),
        ),
    ),
    modulated_input=joint_block,
    default_profile=_sd3_profile,
)

FLUX_DOUBLE = BlockList(
    "double_blocks",
    inputs=(Stream(Role.IMAGE, 0, "img"), Stream(Role.TEXT, 1, "txt")),
    outputs=(Role.IMAGE, Role.TEXT),
)
FLUX_SINGLE = BlockList(
    "single_blocks", inputs=(Stream(Role.TEXT_IMAGE, 0, "x"),), outputs=(Role.TEXT_IMAGE,)
)
FLUX_CLASS = "comfy.ldm.flux.model.Flux"


def _takes_pooled_text(transformer: Any) -> bool:
    return transformer.params.vec_in_dim is not None


FLUX1 = Family(
    id="flux1",
    name="FLUX.1",
    classes=(FLUX_CLASS,),
    matches=lambda transformer: (
        not transformer.params.global_modulation and _takes_pooled_text(transformer)
    ),
    block_lists=(FLUX_DOUBLE, FLUX_SINGLE),
    modulated_input=flux_double_block,
    default_profile=lambda transformer: "flux1-dev",
)

FLUX2 = Family(
    id="flux2",
    name="FLUX.2",
    classes=(FLUX_CLASS,),
    matches=lambda transformer: transformer.params.global_modulation,
    block_lists=(FLUX_DOUBLE, FLUX_SINGLE),
    modulated_input=flux_double_block,
    default_profile=lambda transformer: (
        "flux2-uncalibrated" if transformer.params.guidance_embed else "flux2-klein-base"
    ),
)

CHROMA = Family(
    id="chroma",
    name="Chroma",
    classes=("comfy.ldm.chroma.model.Chroma", "comfy.ldm.chroma_radiance.model.ChromaRadiance"),
    block_lists=(FLUX_DOUBLE, FLUX_SINGLE),
    modulated_input=flux_double_block,
    default_profile=lambda transformer: "chroma-uncalibrated",
)

QWEN_DOUBLE = BlockList(
    "transformer_blocks",
    inputs=(
        Stream(Role.IMAGE, 0, "hidden_states"),
        Stream(Role.TEXT, 1, "encoder_hidden_states"),
    ),
    outputs=(Role.TEXT, Role.IMAGE),
)

QWEN_IMAGE = Family(
    id="qwen_image",
    name="Qwen-Image",
    classes=("comfy.ldm.qwen_image.model.QwenImageTransformer2DModel",),
    block_lists=(QWEN_DOUBLE,),
    modulated_input=qwen_image_block,
    default_profile=lambda transformer: "qwen-image-mlx",
)

LUMINA_CLASS = "comfy.ldm.lumina.model.NextDiT"
LUMINA_LAYERS = single_stream_blocks("layers", "x")


def has_module(transformer: Any, name: str) -> bool:
    """Whether the transformer has a submodule; newer models of the same class have more."""
    return name in transformer._modules


LUMINA2 = Family(
    id="lumina2",
    name="Lumina Image 2.0",
    classes=(LUMINA_CLASS,),
    matches=lambda transformer: (
        transformer.pad_tokens_multiple is None and not has_module(transformer, "time_text_embed")
    ),
    block_lists=(LUMINA_LAYERS,),
    modulated_input=lumina_block,
    default_profile=lambda transformer: "lumina2",
)

Z_IMAGE = Family(
    id="z_image",
    name="Z-Image",
    classes=(LUMINA_CLASS,),
    matches=lambda transformer: transformer.pad_tokens_multiple is not None,
    block_lists=(LUMINA_LAYERS,),
    modulated_input=lumina_block,
    default_profile=lambda transformer: "z-image-uncalibrated",
)


def _hidream_time_embedding(transformer: Any, timesteps: Tensor) -> Tensor:
    """HiDream's timestep embedding [n, width], without the pooled text (`hidream/model.py`)."""
    weight = next(transformer.get_submodule("x_embedder").parameters())
    embedding: Tensor = transformer.t_embedder(timesteps, weight.dtype)
    return embedding


HIDREAM = Family(
    id="hidream",
    name="HiDream-I1",
    classes=("comfy.ldm.hidream.model.HiDreamImageTransformer2DModel",),
    block_lists=(
        BlockList(
            "double_stream_blocks",
            inputs=(Stream(Role.IMAGE, 0, "image_tokens"), Stream(Role.TEXT, 2, "text_tokens")),
            outputs=(Role.IMAGE, Role.TEXT),
        ),
        BlockList(
            "single_stream_blocks",
            inputs=(Stream(Role.IMAGE_TEXT, 0, "image_tokens"),),
            outputs=(Role.IMAGE_TEXT,),
        ),
    ),
    embed_timesteps=_hidream_time_embedding,
    default_profile=lambda transformer: "hidream-full",
)

AURAFLOW = Family(
    id="auraflow",
    name="AuraFlow",
    classes=("comfy.ldm.aura.mmdit.MMDiT",),
    block_lists=(
        BlockList(
            "double_layers",
            inputs=(Stream(Role.TEXT, 0, "c"), Stream(Role.IMAGE, 1, "x")),
            outputs=(Role.TEXT, Role.IMAGE),
        ),
        BlockList(
            "single_layers",
            inputs=(Stream(Role.TEXT_IMAGE, 0, "cx"),),
            outputs=(Role.TEXT_IMAGE,),
        ),
    ),
    modulated_input=aura_block,
    default_profile=lambda transformer: "auraflow-uncalibrated",
)

PIXART = Family(
    id="pixart",
    name="PixArt alpha / sigma",
    classes=("comfy.ldm.pixart.pixartms.PixArtMS",),
    block_lists=(single_stream_blocks("blocks", "x"),),
    modulated_input=pixart_block,
    default_profile=lambda transformer: "pixart-uncalibrated",
)

HUNYUAN_DIT = Family(
    id="hunyuan_dit",
    name="HunyuanDiT",
    classes=("comfy.ldm.hydit.models.HunYuanDiT",),
    block_lists=(single_stream_blocks("blocks", "x"),),
    modulated_input=hunyuan_dit_block,
    default_profile=lambda transformer: "hunyuan-dit-uncalibrated",
)

OMNIGEN2 = Family(
    id="omnigen2",
    name="OmniGen2",
    classes=("comfy.ldm.omnigen.omnigen2.OmniGen2Transformer2DModel",),
    block_lists=(single_stream_blocks("layers", "hidden_states"),),
    modulated_input=omnigen_block,
    default_profile=lambda transformer: "omnigen2-uncalibrated",
)

IMAGE_FAMILIES = (
    SD3,
    FLUX1,
    FLUX2,
    CHROMA,
    QWEN_IMAGE,
    LUMINA2,
    Z_IMAGE,
    HIDREAM,
    AURAFLOW,
    PIXART,
    HUNYUAN_DIT,
    OMNIGEN2,
)
