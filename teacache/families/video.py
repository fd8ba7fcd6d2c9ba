"""Families that make video."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..blocks import BlockList, Passed, Role, SideList, Stream
from .base import Family, Untouched

WAN_14B_WIDTH = 5120


def _wan_time_embedding(transformer: Any, timesteps: Tensor) -> Tensor:
    """Wan's `e`: `time_embedding` of the sinusoid of t (Wan2.1 `wan/modules/model.py`)."""
    half = transformer.freq_dim // 2
    exponents = torch.arange(half, dtype=torch.float64, device=timesteps.device) / half
    angles = timesteps.double()[:, None] * torch.exp(-math.log(10000.0) * exponents)
    sinusoid = torch.cat([angles.cos(), angles.sin()], dim=1)
    weight = next(transformer.get_submodule("time_embedding").parameters())
    dtype = weight.dtype if weight.dtype in (torch.float32, torch.bfloat16) else torch.float32
    embedding: Tensor = transformer.time_embedding(sinusoid.to(dtype))
    return embedding


def _wan_profile(transformer: Any) -> str:
    if transformer.dim < WAN_14B_WIDTH:
        return "wan21-t2v-1.3b"
    return "wan21-i2v-480p" if transformer.model_type == "i2v" else "wan21-t2v-14b"


def _vace_feeds_end(transformer: Any) -> bool:
    if not hasattr(transformer, "vace_layers_mapping"):
        return True
    return len(transformer.blocks) - 1 in transformer.vace_layers_mapping


WAN21 = Family(
    id="wan21",
    name="Wan 2.1",
    classes=("comfy.ldm.wan.model.WanModel", "comfy.ldm.wan.model.VaceWanModel"),
    lists=(BlockList("blocks", takes=(Stream(Role.IMAGE, 0, "x"),), returns=(Role.IMAGE,)),),
    sides=(SideList("vace_blocks", _vace_feeds_end, stream="c", gives=Passed.ZERO_AND_STREAM),),
    embed_timesteps=_wan_time_embedding,
    profile=_wan_profile,
)

VIDEO_FAMILIES = (WAN21,)
VIDEO_UNTOUCHED: tuple[Untouched, ...] = ()
