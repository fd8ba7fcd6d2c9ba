"""Wan 2.1 and 2.2, and the models made from them (`comfy/ldm/wan`)."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from ..spec import Family, RunScope, Uncacheable
from ..streams import BlockList, Role, SideBlockList, SkippedOutput, Stream

WIDTH_14B = 5120
TI2V_5B_CHANNELS = 48
VAE_SCALE = 8
PIXELS_720P = 600_000
"""From this many pixels on a frame counts as 720p: between 832x480 and 1280x720."""


def sinusoid(timesteps: Tensor, dimensions: int) -> Tensor:
    """Cosines, then sines, of `timesteps` at falling frequencies: [n, dimensions]."""
    half = dimensions // 2
    exponents = torch.arange(half, dtype=torch.float64, device=timesteps.device) / half
    angles = timesteps.double()[:, None] * torch.exp(-math.log(10000.0) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def for_layer(values: Tensor, layer: Any) -> Tensor:
    """`values` in the type that `layer` computes in (fp32 for quantized weights)."""
    dtype = layer.weight.dtype
    computes = dtype in (torch.float32, torch.bfloat16, torch.float16)
    return values.to(dtype if computes else torch.float32)


def _time_embedding(transformer: Any, timesteps: Tensor) -> Tensor:
    """`e`: `time_embedding` of the sinusoid of t (`wan/model.py`)."""
    layers = transformer.time_embedding
    embedding: Tensor = layers(for_layer(sinusoid(timesteps, transformer.freq_dim), layers[0]))
    return embedding


def _time_projection(transformer: Any, timesteps: Tensor) -> Tensor:
    """`e0`: what the blocks modulate with, `time_projection` of `e` (`wan/model.py`)."""
    projection: Tensor = transformer.time_projection(_time_embedding(transformer, timesteps))
    return projection


def _profile(transformer: Any) -> str:
    """Wan 2.2 is recognised by the 48 channels of TI2V 5B, or an image input without CLIP."""
    kind = type(transformer).__name__
    if kind == "HumoWanModel":
        return "wan21-uncalibrated"
    from_image = transformer.in_dim > transformer.out_dim and transformer.img_emb is None
    if kind in ("WanModel_S2V", "AnimateWanModel"):
        return "wan22-uncalibrated"
    if transformer.out_dim == TI2V_5B_CHANNELS:
        return "wan22-ti2v-5b"
    if from_image:
        return "wan22-uncalibrated"
    if transformer.dim < WIDTH_14B:
        return "wan21-t2v-1.3b"
    return "wan21-i2v-480p" if transformer.model_type == "i2v" else "wan21-t2v-14b"


def _run_profile(transformer: Any, scope: RunScope) -> str:
    """As `_profile`; 480p or 720p by the latent's size.

    Wan 2.2's text-to-video experts have the weights' shapes of Wan 2.1 14B. A run over a part of
    the noise levels is taken for one of them.
    """
    name = _profile(transformer)
    if name == "wan21-t2v-14b" and not scope.full_range:
        return "wan22-uncalibrated"
    pixels = scope.latent[-2] * scope.latent[-1] * VAE_SCALE**2
    if name == "wan21-i2v-480p" and pixels >= PIXELS_720P:
        return "wan21-i2v-720p"
    return name


def _vace_runs(transformer: Any) -> Collection[str]:
    """All or none: each block needs the stream of the one before it."""
    at_end = len(transformer.blocks) - 1 in transformer.vace_layers_mapping
    return tuple(transformer.vace_blocks._modules) if at_end else ()


def _no_face_runs(transformer: Any) -> Collection[str]:
    """One comes after every fifth block, the first included: never after the last."""
    return ()


def _audio_runs(transformer: Any) -> Collection[str]:
    after_last = transformer.audio_injector.injected_block_id.get(len(transformer.blocks) - 1)
    return () if after_last is None else (str(after_last),)


def _music_runs(transformer: Any) -> Collection[str]:
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
            "vace_blocks", _vace_runs, stream="c", skipped_output=SkippedOutput.ZERO_AND_STREAM
        ),
        SideBlockList(
            "face_adapter.fuser_blocks",
            _no_face_runs,
            stream="x",
            skipped_output=SkippedOutput.ZERO,
        ),
        SideBlockList(
            "audio_injector.injector", _audio_runs, stream="x", skipped_output=SkippedOutput.ZERO
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
            "music_injector.injector", _music_runs, stream="x", skipped_output=SkippedOutput.ZERO
        ),
    ),
    embed_timesteps=_time_embedding,
    project_timesteps=_time_projection,
    default_profile=lambda transformer: "wan-variants-uncalibrated",
    tested="newer",
)

WAN_FAMILIES = (WAN21, WAN_VARIANTS)

WAN_UNCACHEABLE = (
    Uncacheable(
        "Wan causal (Self-Forcing)",
        ("comfy.ldm.wan.ar_model.CausalWanModel",),
        "it makes frames one after another, and its blocks fill a memory that later frames read",
    ),
    Uncacheable(
        "Wan Animate 2",
        ("comfy.ldm.wan.model_animate2.WanAnimate2Model",),
        "its blocks are not called as modules, but through methods of their own for pose and video",
    ),
)
