"""Apply TeaCache for the models of ComfyUI-WanVideoWrapper: the same widgets, another type.

The pack's models have a type of their own and are sampled by its own nodes. The node is offered
where the pack is there.
"""

from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io

from ..teacache.config import LEARN, PRESETS
from ..teacache.hosts.comfyui.patch import cached_model
from ..teacache.hosts.comfyui.wan_video import apply_to_wan_video, wan_video_is_there
from .apply import OFFERED_SPEEDUPS, CacheNode, apply_schema, config_from_widgets
from .events import NodeEvents
from .schema import WanVideoSocket

UNKNOWN = (
    "The model is not one that WanVideoWrapper's loader and sampler share: it is left as it is."
)
log = logging.getLogger("teacache")


class ApplyTeaCacheWanVideo(CacheNode, io.ComfyNode):
    """Adds the cache to a model of WanVideoWrapper."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return apply_schema(
            node_id="ApplyTeaCacheWanVideo",
            display_name="Apply TeaCache (WanVideo)",
            description=(
                "Samples faster by not computing the steps that come out nearly the same. Put it "
                "between WanVideo Model Loader and WanVideo Sampler."
            ),
            source=WanVideoSocket.Input("model", tooltip="The WanVideo model to speed up."),
            output=WanVideoSocket.Output(
                display_name="model", tooltip="The model, sampling with the cache."
            ),
            store=cls.store(),
            presets=[*(name for name in PRESETS if name != LEARN), *OFFERED_SPEEDUPS],
        )

    @classmethod
    def execute(cls, model: Any, **settings: Any) -> io.NodeOutput:
        config, notes = config_from_widgets(**settings)
        events = NodeEvents(str(cls.hidden.unique_id))
        if cached_model(model) is not None:
            notes.append("It replaces an earlier Apply TeaCache on this model.")
        cached, handle = apply_to_wan_video(model, config, events.send)
        if handle is None:
            notes.append(UNKNOWN)
        for note in notes:
            log.warning("TeaCache: %s", note)
        events.ready("" if handle is None else handle.describe(), notes)
        return io.NodeOutput(cached)


def offered_nodes() -> list[type[io.ComfyNode]]:
    """The node, where the pack is there."""
    return [ApplyTeaCacheWanVideo] if wan_video_is_there() else []
