"""Families of Wan 2.1, Wan 2.2 and models derived from them (`comfy/ldm/wan`)."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..spec import Family, RunScope, Uncacheable
from ..streams import BlockList, Role, SideBlockList, SkippedOutput, Stream

WIDTH_14B = 5120
TI2V_5B_CHANNELS = 48
"""Latent channels of Wan 2.2 TI2V 5B; Wan 2.1's VAE has 16."""
VAE_SCALE = 8
"""Pixels per latent position, in height and in width."""
PIXELS_720P = 600_000
"""Pixels of a frame from which it counts as 720p; between 832x480 and 1280x720."""


def sinusoidal_embedding(timesteps: Tensor, dimensions: int) -> Tensor:
    """Sinusoidal embedding of `timesteps` [n], cosines first: [n, dimensions]."""
    half = dimensions // 2
    exponents = torch.arange(half, dtype=torch.float64, device=timesteps.device) / half
    angles = timesteps.double()[:, None] * torch.exp(-math.log(10000.0) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def to_layer_dtype(values: Tensor, layer: Any) -> Tensor:
    """`values` in the dtype that `layer` computes in: fp32 if its weights are quantized."""
    dtype = layer.weight.dtype
    computes = dtype in (torch.float32, torch.bfloat16, torch.float16)
    return values.to(dtype if computes else torch.float32)


def _time_embedding(transformer: Any, timesteps: Tensor) -> Tensor:
    """`e`: `time_embedding` of the sinusoidal embedding of t (`wan/model.py`)."""
    layers = transformer.time_embedding
    embedding: Tensor = layers(
        to_layer_dtype(sinusoidal_embedding(timesteps, transformer.freq_dim), layers[0])
    )
    return embedding


def _time_projection(transformer: Any, timesteps: Tensor) -> Tensor:
    """`e0`, the modulation of the blocks: `time_projection` of `e` (`wan/model.py`)."""
    projection: Tensor = transformer.time_projection(_time_embedding(transformer, timesteps))
    return projection


def _takes_clip(transformer: Any) -> bool:
    return transformer._modules.get("img_emb") is not None


def _profile(transformer: Any) -> str:
    """Name of the profile: Wan 2.2 has 48 latent channels, or takes an image without CLIP."""
    class_name = type(transformer).__name__
    if class_name == "HumoWanModel":
        return "wan21-uncalibrated"
    image_without_clip = transformer.in_dim > transformer.out_dim and not _takes_clip(transformer)
    if class_name in ("WanModel_S2V", "AnimateWanModel"):
        return "wan22-uncalibrated"
    if transformer.out_dim == TI2V_5B_CHANNELS:
        return "wan22-ti2v-5b"
    if image_without_clip:
        return "wan22-uncalibrated"
    if transformer.dim < WIDTH_14B:
        return "wan21-t2v-1.3b"
    return "wan21-i2v-480p" if transformer.model_type == "i2v" else "wan21-t2v-14b"


def _run_profile(transformer: Any, scope: RunScope) -> str:
    """As `_profile`, and 480p or 720p by the size of the latent.

    The text-to-video experts of Wan 2.2 have the shapes of Wan 2.1 14B. A run over a part of the
    noise levels is assumed to be one of them.
    """
    name = _profile(transformer)
    if name == "wan21-t2v-14b" and not scope.full_range:
        return "wan22-uncalibrated"
    pixels = scope.latent[-2] * scope.latent[-1] * VAE_SCALE**2
    if name == "wan21-i2v-480p" and pixels >= PIXELS_720P:
        return "wan21-i2v-720p"
    return name


def _vace_always_run(transformer: Any) -> Collection[str]:
    """All of them if one adds its output after the last block, since they form a chain."""
    at_end = len(transformer.blocks) - 1 in transformer.vace_layers_mapping
    return tuple(transformer.vace_blocks._modules) if at_end else ()


def _face_always_run(transformer: Any) -> Collection[str]:
    """None: they add their output after blocks 0, 5, 10 and so on, never after the last one."""
    return ()


def _audio_always_run(transformer: Any) -> Collection[str]:
    """The injector that adds its output after the last block, if there is one."""
    after_last = transformer.audio_injector.injected_block_id.get(len(transformer.blocks) - 1)
    return () if after_last is None else (str(after_last),)


def _music_always_run(transformer: Any) -> Collection[str]:
    """The injector that adds its output after the last block, if there is one."""
    after_last = transformer.music_injector.injected_block_id.get(len(transformer.blocks) - 1)
    return () if after_last is None else (str(after_last),)


BLOCKS = BlockList("blocks", inputs=(Stream(Role.IMAGE, 0, "x"),), outputs=(Role.IMAGE,))

WAN21 = Family(
    id="wan21",
    name="Wan 2.1 / 2.2",
    classes=(
        "comfy.ldm.wan.model.WanModel",
        "comfy.ldm.wan.model.VaceWanModel",
        "comfy.ldm.wan.model.CameraWanModel",
        "comfy.ldm.wan.model.WanModel_S2V",
        "comfy.ldm.wan.model.HumoWanModel",
        "comfy.ldm.wan.model_animate.AnimateWanModel",
    ),
    block_lists=(BLOCKS,),
    side_block_lists=(
        SideBlockList(
            "vace_blocks",
            _vace_always_run,
            stream="c",
            skipped_output=SkippedOutput.ZERO_AND_STREAM,
        ),
        SideBlockList(
            "face_adapter.fuser_blocks",
            _face_always_run,
            stream="x",
            skipped_output=SkippedOutput.ZERO,
        ),
        SideBlockList(
            "audio_injector.injector",
            _audio_always_run,
            stream="x",
            skipped_output=SkippedOutput.ZERO,
        ),
    ),
    embed_timesteps=_time_embedding,
    project_timesteps=_time_projection,
    default_profile=_profile,
    profile_for_run=_run_profile,
)

WAN_VARIANTS = Family(
    id="wan_variants",
    name="Wan SCAIL, SCAIL-2, WanDancer",
    classes=(
        "comfy.ldm.wan.model.SCAILWanModel",
        "comfy.ldm.wan.model.SCAIL2WanModel",
        "comfy.ldm.wan.model_wandancer.WanDancerModel",
    ),
    block_lists=(BLOCKS,),
    side_block_lists=(
        SideBlockList(
            "music_injector.injector",
            _music_always_run,
            stream="x",
            skipped_output=SkippedOutput.ZERO,
        ),
    ),
    embed_timesteps=_time_embedding,
    project_timesteps=_time_projection,
    default_profile=lambda transformer: "wan-variants-uncalibrated",
    tested="newer",
)

WAN_ANIMATE_2 = replace(
    WAN_VARIANTS,
    name="Wan Animate 2",
    classes=("comfy.ldm.wan.model_animate2.WanAnimate2Model",),
    block_lists=(replace(BLOCKS, method="forward_gen"),),
    side_block_lists=(),
)
"""Its blocks run for the pose through methods of their own, which run on a skip as well."""

WAN_FAMILIES = (WAN21, WAN_VARIANTS, WAN_ANIMATE_2)

WAN_UNCACHEABLE = (
    Uncacheable(
        "Wan causal (Self-Forcing)",
        ("comfy.ldm.wan.ar_model.CausalWanModel",),
        "it makes frames one after another, and its blocks fill a memory that later frames read",
    ),
)
