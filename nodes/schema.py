"""What the nodes' schemas share, and where ComfyUI's versions differ in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from comfy_api.latest import ComfyAPI, io
from PIL import Image

from ..teacache.plots.pixels import to_tensor_image

CATEGORY = "TeaCache"
WanVideoSocket = io.Custom("WANVIDEOMODEL")
"""A model of the pack ComfyUI-WanVideoWrapper."""
InputType = TypeVar("InputType", bound=io.Input)


def schema(*, search_aliases: Sequence[str], **fields: Any) -> io.Schema:
    """A node's schema.

    Args:
        search_aliases: Words that find the node in the editor; dropped where `io.Schema` has no
            field for them.
        fields: The other arguments of `io.Schema`.
    """
    if any(field.name == "search_aliases" for field in dataclasses.fields(io.Schema)):
        fields["search_aliases"] = list(search_aliases)
    return io.Schema(**fields)


def advanced(widget: InputType) -> InputType:
    """Marks `widget` as advanced; an editor that supports it hides such inputs at first.

    ComfyUI 0.3.75 has no argument for this, but every version sends extra entries to the editor.
    """
    widget.extra_dict["advanced"] = True
    return widget


async def offer_replacements() -> None:
    """Registers Apply TeaCache as the replacement of a missing node TeaCache of another pack.

    Does nothing where ComfyUI cannot replace missing nodes. The other node's model_type is dropped
    because the model is recognised here, and its cache_device because its values differ.
    """
    if not hasattr(io, "NodeReplace"):
        return
    copied = ["model", "rel_l1_thresh", "start_percent", "end_percent"]
    constants = {
        "auto_threshold": True,
        "max_skip": 0,
        "cache_device": "auto",
        "profile": "auto",
        "mode": "faithful",  # what that pack's thresholds are meant for
        "cached": "auto",
        "indicator": "auto",
        "predictor": "auto",
        "preset": "auto",
    }
    await ComfyAPI().node_replacement.register(
        io.NodeReplace(
            new_node_id="ApplyTeaCache",
            old_node_id="TeaCache",
            old_widget_ids=[
                "model_type",
                "rel_l1_thresh",
                "start_percent",
                "end_percent",
                "cache_device",
            ],
            input_mapping=[
                *({"new_id": name, "old_id": name} for name in copied),
                *({"new_id": name, "set_value": value} for name, value in constants.items()),
            ],
            output_mapping=[{"new_idx": 0, "old_idx": 0}],
        )
    )


def to_image(image: Image.Image) -> torch.Tensor:
    """Converts an image to ComfyUI's IMAGE type: a batch of one, `[1, height, width, 3]`."""
    return to_tensor_image(image)[None]
