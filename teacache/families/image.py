"""Families that make still images."""

from __future__ import annotations

from typing import Any

from ..blocks import BlockList, Role, Stream
from .base import Family
from .modulation import flux_double_block, joint_block, qwen_image_block

DEMO_LAYERS = 5


def _sd3_profile(transformer: Any) -> str:
    return "demo" if len(transformer.joint_blocks) == DEMO_LAYERS else "sd3-uncalibrated"


SD3 = Family(
    id="sd3",
    name="Stable Diffusion 3 / 3.5",
    classes=(
        "comfy.ldm.modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper",
        "comfy.ldm.modules.diffusionmodules.mmdit.MMDiT",
    ),
    lists=(
        BlockList(
            "joint_blocks",
            takes=(Stream(Role.TEXT, 0, "context"), Stream(Role.IMAGE, 1, "x")),
            returns=(Role.TEXT, Role.IMAGE),
        ),
    ),
    modulated_input=joint_block,
    profile=_sd3_profile,
)

FLUX_DOUBLE = BlockList(
    "double_blocks",
    takes=(Stream(Role.IMAGE, 0, "img"), Stream(Role.TEXT, 1, "txt")),
    returns=(Role.IMAGE, Role.TEXT),
)
FLUX_SINGLE = BlockList(
    "single_blocks", takes=(Stream(Role.TEXT_IMAGE, 0, "x"),), returns=(Role.TEXT_IMAGE,)
)

FLUX1 = Family(
    id="flux1",
    name="FLUX.1",
    classes=("comfy.ldm.flux.model.Flux",),
    accepts=lambda transformer: not transformer.params.global_modulation,
    lists=(FLUX_DOUBLE, FLUX_SINGLE),
    modulated_input=flux_double_block,
    profile=lambda transformer: "flux1-dev",
)

QWEN_IMAGE = Family(
    id="qwen_image",
    name="Qwen-Image",
    classes=("comfy.ldm.qwen_image.model.QwenImageTransformer2DModel",),
    lists=(
        BlockList(
            "transformer_blocks",
            takes=(
                Stream(Role.IMAGE, 0, "hidden_states"),
                Stream(Role.TEXT, 1, "encoder_hidden_states"),
            ),
            returns=(Role.TEXT, Role.IMAGE),
        ),
    ),
    modulated_input=qwen_image_block,
    profile=lambda transformer: "qwen-image-mlx",
)

IMAGE_FAMILIES = (SD3, FLUX1, QWEN_IMAGE)
