"""What differs between ComfyUI versions in a node's schema, in one place."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from comfy_api.latest import ComfyAPI, io
from PIL import Image

from ..teacache.plots.pixels import to_tensor_image

CATEGORY = "TeaCache"
AnyInput = TypeVar("AnyInput", bound=io.Input)


def schema(*, search_aliases: Sequence[str], **fields: Any) -> io.Schema:
    """A schema with the words that also find the node, where the version has a place for them."""
    if any(field.name == "search_aliases" for field in dataclasses.fields(io.Schema)):
        fields["search_aliases"] = list(search_aliases)
    return io.Schema(**fields)


def advanced(widget: AnyInput) -> AnyInput:
    """`widget`, folded away under the node's advanced inputs where the editor can.

    0.3.75 has no argument for it, but every version passes extra entries on to the editor.
    """
    widget.extra_dict["advanced"] = True
    return widget


async def offer_replacements() -> None:
    """Where the version can replace missing nodes: Apply TeaCache for the other pack's TeaCache.

    What that pack calls model_type is recognised here, and its devices have other names.
    """
    if not hasattr(io, "NodeReplace"):
        return
    kept = ["model", "rel_l1_thresh", "start_percent", "end_percent"]
    fixed = {
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
                *({"new_id": name, "old_id": name} for name in kept),
                *({"new_id": name, "set_value": value} for name, value in fixed.items()),
            ],
            output_mapping=[{"new_idx": 0, "old_idx": 0}],
        )
    )


def to_image(picture: Image.Image) -> torch.Tensor:
    """`picture` as a batch of one, as ComfyUI passes images between nodes."""
    return to_tensor_image(picture)[None]
