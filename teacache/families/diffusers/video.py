"""Families of video models, as the transformer classes of diffusers 0.42 define them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from ..comfyui.image import single_stream_blocks
from ..comfyui.video import COGVIDEOX, COSMOS1, COSMOS_PREDICT2, HUNYUAN_VIDEO, LTX, MOCHI
from ..comfyui.wan import PIXELS_720P, TI2V_5B_CHANNELS, VAE_SCALE, WAN21, WIDTH_14B, to_layer_dtype
from ..spec import RunScope
from .image import MODELS, dual_stream_blocks
from .modulation import ada_norm_block, cosmos_block, hunyuan_video_block, ltx_block

DOUBLE = dual_stream_blocks("transformer_blocks", text_first=False)
BLOCKS = single_stream_blocks("transformer_blocks", "hidden_states")


def _wan_time_embedding(transformer: Any, timesteps: Tensor) -> Tensor:
    """`temb`: `time_embedder` of the sinusoidal embedding of t (`transformer_wan.py`)."""
    condition = transformer.condition_embedder
    layers = condition.time_embedder
    embedding: Tensor = layers(to_layer_dtype(condition.timesteps_proj(timesteps), layers.linear_1))
    return embedding


def _wan_time_projection(transformer: Any, timesteps: Tensor) -> Tensor:
    """The modulation of the blocks: `time_proj` of the activated `temb`."""
    condition = transformer.condition_embedder
    embedding = condition.act_fn(_wan_time_embedding(transformer, timesteps))
    projection: Tensor = condition.time_proj(embedding)
    return projection


def _wan_profile(transformer: Any) -> str:
    """As `comfyui.wan`: Wan 2.2 has 48 latent channels, or takes an image without CLIP."""
    config = transformer.config
    from_image = config.in_channels > config.out_channels
    if config.out_channels == TI2V_5B_CHANNELS:
        return "wan22-ti2v-5b"
    if from_image and config.image_dim is None:
        return "wan22-uncalibrated"
    if config.num_attention_heads * config.attention_head_dim < WIDTH_14B:
        return "wan21-t2v-1.3b"
    return "wan21-i2v-480p" if from_image else "wan21-t2v-14b"


def _wan_run_profile(transformer: Any, scope: RunScope) -> str:
    """As `comfyui.wan`: 480p or 720p by the latent; one of two experts in a run is Wan 2.2."""
    name = _wan_profile(transformer)
    if name == "wan21-t2v-14b" and not scope.full_range:
        return "wan22-uncalibrated"
    pixels = scope.latent[-2] * scope.latent[-1] * VAE_SCALE**2
    if name == "wan21-i2v-480p" and pixels >= PIXELS_720P:
        return "wan21-i2v-720p"
    return name


DIFFUSERS_WAN = replace(
    WAN21,
    classes=(
        MODELS + "transformer_wan.WanTransformer3DModel",
        MODELS + "transformer_wan_vace.WanVACETransformer3DModel",
    ),
    block_lists=(single_stream_blocks("blocks", "hidden_states"),),
    side_block_lists=(),
    embed_timesteps=_wan_time_embedding,
    project_timesteps=_wan_time_projection,
    default_profile=_wan_profile,
    profile_for_run=_wan_run_profile,
)

DIFFUSERS_HUNYUAN_VIDEO = replace(
    HUNYUAN_VIDEO,
    classes=(MODELS + "transformer_hunyuan_video.HunyuanVideoTransformer3DModel",),
    block_lists=(DOUBLE, dual_stream_blocks("single_transformer_blocks", text_first=False)),
    modulated_input=hunyuan_video_block,
    default_profile=lambda transformer: "hunyuan-video",
    matches=lambda transformer: True,
)

DIFFUSERS_LTX = replace(
    LTX,
    classes=(MODELS + "transformer_ltx.LTXVideoTransformer3DModel",),
    block_lists=(BLOCKS,),
    modulated_input=ltx_block,
    indicator_depends_on_text=False,
)

DIFFUSERS_MOCHI = replace(
    MOCHI,
    classes=(MODELS + "transformer_mochi.MochiTransformer3DModel",),
    block_lists=(DOUBLE,),
    modulated_input=ada_norm_block,
)

COSMOS_CLASS = MODELS + "transformer_cosmos.CosmosTransformer3DModel"

DIFFUSERS_COSMOS1 = replace(
    COSMOS1,
    classes=(COSMOS_CLASS,),
    matches=lambda transformer: transformer.config.extra_pos_embed_type is not None,
    block_lists=(BLOCKS,),
    modulated_input=cosmos_block,
    indicator_depends_on_text=False,
)

DIFFUSERS_COSMOS_PREDICT2 = replace(
    COSMOS_PREDICT2,
    classes=(COSMOS_CLASS,),
    matches=lambda transformer: transformer.config.extra_pos_embed_type is None,
    block_lists=(BLOCKS,),
    modulated_input=cosmos_block,
    indicator_depends_on_text=False,
)


def _cogvideox_time_embedding(transformer: Any, timesteps: Tensor) -> Tensor:
    """`emb`: `time_embedding` of the sinusoidal embedding of t (`cogvideox_transformer_3d.py`)."""
    layers = transformer.time_embedding
    embedding: Tensor = layers(to_layer_dtype(transformer.time_proj(timesteps), layers.linear_1))
    return embedding


def _cogvideox_profile(transformer: Any) -> str:
    config = transformer.config
    if config.patch_size_t is not None:
        from_image = config.in_channels > config.out_channels
        return "cogvideox-1.5-5b-i2v" if from_image else "cogvideox-1.5-5b-t2v"
    return "cogvideox-5b" if config.num_attention_heads >= 48 else "cogvideox-2b"


DIFFUSERS_COGVIDEOX = replace(
    COGVIDEOX,
    classes=(MODELS + "cogvideox_transformer_3d.CogVideoXTransformer3DModel",),
    block_lists=(DOUBLE,),
    embed_timesteps=_cogvideox_time_embedding,
    default_profile=_cogvideox_profile,
    tested="run",
)

DIFFUSERS_VIDEO_FAMILIES = (
    DIFFUSERS_WAN,
    DIFFUSERS_HUNYUAN_VIDEO,
    DIFFUSERS_LTX,
    DIFFUSERS_MOCHI,
    DIFFUSERS_COSMOS1,
    DIFFUSERS_COSMOS_PREDICT2,
    DIFFUSERS_COGVIDEOX,
)
