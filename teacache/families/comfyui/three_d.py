"""Families of 3D models, as ComfyUI's classes define them."""

from __future__ import annotations

from ..spec import Family, Uncacheable
from .image import FLUX_DOUBLE, FLUX_SINGLE, single_stream_blocks
from .modulation import flux_double_block

HUNYUAN3D = Family(
    id="hunyuan3d",
    name="Hunyuan3D 2.0",
    classes=("comfy.ldm.hunyuan3d.model.Hunyuan3Dv2",),
    block_lists=(FLUX_DOUBLE, FLUX_SINGLE),
    modulated_input=flux_double_block,
    default_profile=lambda transformer: "hunyuan3d-uncalibrated",
)

HUNYUAN3D_21 = Family(
    id="hunyuan3d21",
    name="Hunyuan3D 2.1",
    classes=("comfy.ldm.hunyuan3dv2_1.hunyuandit.HunYuanDiTPlain",),
    block_lists=(single_stream_blocks("blocks", "hidden_states"),),
    default_profile=lambda transformer: "hunyuan3d21-uncalibrated",
)

TRIPOSPLAT = Family(
    id="triposplat",
    name="TripoSplat",
    classes=("comfy.ldm.triposplat.model.LatentSeqMMFlowModel",),
    block_lists=(single_stream_blocks("blocks", "x"),),
    default_profile=lambda transformer: "triposplat-uncalibrated",
    tested="read",
)

THREE_D_FAMILIES = (HUNYUAN3D, HUNYUAN3D_21, TRIPOSPLAT)

THREE_D_UNCACHEABLE = (
    Uncacheable(
        "Trellis 2",
        ("comfy.ldm.trellis2.model.Trellis2",),
        "it is several transformers in one, for stages of their own, and works on sparse voxels",
        forecast=True,
    ),
)
