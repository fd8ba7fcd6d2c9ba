"""Families of video models other than Wan, as ComfyUI's classes define them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from ..spec import Family, Uncacheable
from ..streams import BlockList, Role, Stream
from .modulation import kandinsky_block
from .video_modulation import (
    cosmos_block,
    hunyuan_double_block,
    ltx_av_block,
    ltx_block,
    minimax_block,
    minimax_segment_sizes,
    mochi_block,
    predict2_block,
)
from .wan import WAN_FAMILIES, WAN_UNCACHEABLE, sinusoidal_embedding, to_layer_dtype

CLIP_WIDTH = 768
"""Width of the pooled text embedding, which only the first HunyuanVideo takes."""


def _image_first(transformer: Any) -> bool:
    """Whether the joined stream is image, then text, as up to ComfyUI 0.3 (`flux/layers.py`)."""
    block = transformer.double_blocks[0]
    return hasattr(block, "flipped_img_txt") and block.flipped_img_txt


def _hunyuan_profile(transformer: Any) -> str:
    first_release = transformer.params.vec_in_dim == CLIP_WIDTH
    return "hunyuan-video" if first_release else "hunyuan-uncalibrated"


HUNYUAN_DOUBLE = BlockList(
    "double_blocks",
    inputs=(Stream(Role.IMAGE, 0, "img"), Stream(Role.TEXT, 1, "txt")),
    outputs=(Role.IMAGE, Role.TEXT),
)

HUNYUAN_VIDEO = Family(
    id="hunyuan_video",
    name="HunyuanVideo 1 / 1.5, HunyuanImage 2.1",
    classes=("comfy.ldm.hunyuan_video.model.HunyuanVideo",),
    matches=_image_first,
    block_lists=(
        HUNYUAN_DOUBLE,
        BlockList(
            "single_blocks",
            inputs=(Stream(Role.IMAGE_TEXT, 0, "x"),),
            outputs=(Role.IMAGE_TEXT,),
        ),
    ),
    modulated_input=hunyuan_double_block,
    default_profile=_hunyuan_profile,
)

HUNYUAN_VIDEO_TEXT_FIRST = replace(
    HUNYUAN_VIDEO,
    name="HunyuanVideo in newer ComfyUI",
    matches=lambda transformer: not _image_first(transformer),
    block_lists=(
        HUNYUAN_DOUBLE,
        BlockList(
            "single_blocks",
            inputs=(Stream(Role.TEXT_IMAGE, 0, "x"),),
            outputs=(Role.TEXT_IMAGE,),
        ),
    ),
    tested="newer",
)

LTX = Family(
    id="ltx",
    name="LTX-Video",
    classes=("comfy.ldm.lightricks.model.LTXVModel",),
    block_lists=(
        BlockList(
            "transformer_blocks", inputs=(Stream(Role.IMAGE, 0, "x"),), outputs=(Role.IMAGE,)
        ),
    ),
    modulated_input=ltx_block,
    default_profile=lambda transformer: "ltx-video",
)

LTX_AV = Family(
    id="ltx_av",
    name="LTX-AV (LTX-2)",
    classes=("comfy.ldm.lightricks.av_model.LTXAVModel",),
    block_lists=(
        BlockList(
            "transformer_blocks",
            inputs=(Stream(Role.IMAGE, 0, "x", is_tuple=True),),
            outputs=(Role.IMAGE,),
        ),
    ),
    modulated_input=ltx_av_block,
    default_profile=lambda transformer: "ltx-av-uncalibrated",
    tested="newer",
)

MOCHI = Family(
    id="mochi",
    name="Mochi 1",
    classes=("comfy.ldm.genmo.joint_model.asymm_models_joint.AsymmDiTJoint",),
    block_lists=(
        BlockList(
            "blocks",
            inputs=(Stream(Role.IMAGE, 0, "x"), Stream(Role.TEXT, 2, "y")),
            outputs=(Role.IMAGE, Role.TEXT),
        ),
    ),
    modulated_input=mochi_block,
    default_profile=lambda transformer: "mochi",
)

COSMOS1 = Family(
    id="cosmos1",
    name="Cosmos 1",
    classes=("comfy.ldm.cosmos.model.GeneralDIT",),
    block_lists=(
        BlockList(
            "blocks", inputs=(Stream(Role.IMAGE, 0, "x", batch_dim=3),), outputs=(Role.IMAGE,)
        ),
    ),
    modulated_input=cosmos_block,
    default_profile=lambda transformer: "cosmos1",
)

COSMOS_PREDICT2 = Family(
    id="cosmos_predict2",
    name="Cosmos Predict2",
    classes=("comfy.ldm.cosmos.predict2.MiniTrainDIT",),
    block_lists=(
        BlockList("blocks", inputs=(Stream(Role.IMAGE, 0, "x_B_T_H_W_D"),), outputs=(Role.IMAGE,)),
    ),
    modulated_input=predict2_block,
    default_profile=lambda transformer: "cosmos-predict2-uncalibrated",
)

ANIMA = replace(
    COSMOS_PREDICT2,
    id="anima",
    name="Anima",
    classes=("comfy.ldm.anima.model.Anima",),
    default_profile=lambda transformer: "anima-uncalibrated",
    tested="newer",
)

KANDINSKY5 = Family(
    id="kandinsky5",
    name="Kandinsky 5",
    classes=("comfy.ldm.kandinsky5.model.Kandinsky5",),
    block_lists=(
        BlockList(
            "visual_transformer_blocks",
            inputs=(Stream(Role.IMAGE, 0, "visual_embed"),),
            outputs=(Role.IMAGE,),
        ),
    ),
    modulated_input=kandinsky_block,
    default_profile=lambda transformer: "kandinsky5-uncalibrated",
    tested="newer",
)


def _cogvideox_time_embedding(transformer: Any, timesteps: Tensor) -> Tensor:
    """`emb`: two layers on the sinusoidal embedding of t (`cogvideo/model.py`)."""
    first, second = transformer.time_embedding_linear_1, transformer.time_embedding_linear_2
    waves = to_layer_dtype(sinusoidal_embedding(timesteps, transformer.time_proj_dim), first)
    embedding: Tensor = second(transformer.time_embedding_act(first(waves)))
    return embedding


def _cogvideox_profile(transformer: Any) -> str:
    if transformer.patch_size_t is not None:
        from_image = transformer.in_channels > transformer.out_channels
        return "cogvideox-1.5-5b-i2v" if from_image else "cogvideox-1.5-5b-t2v"
    return "cogvideox-5b" if transformer.num_attention_heads >= 48 else "cogvideox-2b"


COGVIDEOX = Family(
    id="cogvideox",
    name="CogVideoX",
    classes=("comfy.ldm.cogvideo.model.CogVideoXTransformer3DModel",),
    block_lists=(
        BlockList(
            "blocks",
            inputs=(
                Stream(Role.IMAGE, 0, "hidden_states"),
                Stream(Role.TEXT, 1, "encoder_hidden_states"),
            ),
            outputs=(Role.IMAGE, Role.TEXT),
        ),
    ),
    embed_timesteps=_cogvideox_time_embedding,
    default_profile=_cogvideox_profile,
    tested="newer",
)

MINIMAX_H3 = Family(
    id="minimax_h3",
    name="MiniMax-H3",
    classes=("comfy.ldm.minimax.model.MiniMaxH3Model",),
    block_lists=(
        BlockList(
            "blocks",
            inputs=(Stream(Role.IMAGE, 0, "x", batch_dim=None, part_sizes=minimax_segment_sizes),),
            outputs=(Role.IMAGE,),
        ),
    ),
    modulated_input=minimax_block,
    default_profile=lambda transformer: "minimax-h3-uncalibrated",
    tested="newer",
)

VIDEO_FAMILIES = (
    *WAN_FAMILIES,
    HUNYUAN_VIDEO,
    HUNYUAN_VIDEO_TEXT_FIRST,
    LTX,
    LTX_AV,
    COSMOS1,
    COSMOS_PREDICT2,
    ANIMA,
    MOCHI,
    KANDINSKY5,
    COGVIDEOX,
    MINIMAX_H3,
)

VIDEO_UNCACHEABLE = (
    *WAN_UNCACHEABLE,
    Uncacheable(
        "SeedVR2",
        ("comfy.ldm.seedvr.model.NaDiT",),
        "it restores video in a single step, so that there is no step to skip",
    ),
)
