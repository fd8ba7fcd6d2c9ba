"""Wan as the class of the pack ComfyUI-WanVideoWrapper defines it (`wanvideo/modules/model.py`).

The pack's models never meet ComfyUI's samplers, and its module is named by the folder it lies in:
the family is in no table, and its host asks for it (`hosts/comfyui/wan_video.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from ..spec import Family, class_name
from ..streams import BlockList, Role, Stream
from .wan import WAN21

CLASS = "wanvideo.modules.model.WanModel"
"""The end of the class's full name."""


def _beside(position: int, name: str) -> Stream:
    """What a block takes and returns beside the video's tokens."""
    return Stream(Role.TEXT, position, name, batch_dim=None)


WAN_VIDEO: Family = replace(
    WAN21,
    name="Wan (WanVideoWrapper)",
    classes=(),
    block_lists=(
        BlockList(
            "blocks",
            inputs=(Stream(Role.IMAGE, 0, "x"),),
            outputs=(Role.IMAGE,),
            also_returned=(
                _beside(1, "x_ip"),
                _beside(2, "lynx_ref_feature"),
                _beside(3, "x_ovi"),
            ),
        ),
    ),
    side_block_lists=(),
)
"""VACE's blocks run before the stack, whether it is skipped or not."""


def is_wan_video(transformer: nn.Module) -> bool:
    """Whether `transformer` is of the pack's class, seen through torch.compile's wrapper."""
    return class_name(transformer).endswith(CLASS)


def leaves_out_an_end(transformer: Any) -> bool:
    """Whether skip layer guidance leaves out the first or the last block of the stack."""
    left_out = transformer.slg_blocks or ()
    return not {0, len(transformer.blocks) - 1}.isdisjoint(left_out)


def is_turned_round(transformer: Any) -> bool:
    """Whether the sampler goes on with the negative of what the model gives (LongCat).

    Older versions of the pack know no such models.
    """
    return hasattr(transformer, "is_longcat") and bool(transformer.is_longcat)
