"""Apply TeaCache for diffusers pipelines: the same widgets with another input and output type.

It is a separate node because ComfyUI 0.3.75 does not support an output whose type follows an
input's: its server joins the types without a comma and does not name the output's template.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..teacache.hosts.diffusers.loading import Pipeline, recognise
from ..teacache.profiles.store import ProfileStore, default_folder
from .apply import (
    CacheNode,
    apply_schema,
    config_from_widgets,
)
from .events import NodeEvents

PipelineSocket = io.Custom("DIFFUSION_PIPELINE")
log = logging.getLogger("teacache")


class ApplyTeaCacheDiffusers(CacheNode, io.ComfyNode):
    """Adds the cache to a diffusers pipeline."""

    @classmethod
    def store(cls) -> ProfileStore:
        """The library's folder: in ComfyUI a pipeline has the same profiles as in a script."""
        return ProfileStore(default_folder())

    @classmethod
    def define_schema(cls) -> io.Schema:
        return apply_schema(
            node_id="ApplyTeaCacheDiffusers",
            display_name="Apply TeaCache (diffusers)",
            description=(
                "Samples faster by not computing the steps that come out nearly the same. Put it "
                "between Load Diffusion Model (diffusers) and Sampler (diffusers)."
            ),
            source=PipelineSocket.Input("pipeline", tooltip="The pipeline to speed up."),
            output=PipelineSocket.Output(
                display_name="pipeline", tooltip="The pipeline, sampling with the cache."
            ),
            store=cls.store(),
        )

    @classmethod
    def execute(cls, pipeline: Pipeline, **settings: Any) -> io.NodeOutput:
        config, notes = config_from_widgets(**settings)
        events = NodeEvents(str(cls.hidden.unique_id))
        line, problem = recognise(pipeline.pipe, config)
        if problem:
            notes.append(problem)
        for note in notes:
            log.warning("TeaCache: %s", note)
        if pipeline.cache is not None:
            notes.append("It replaces the cache that was on this pipeline.")
        events.ready(line, notes)
        cache = config if line else None
        return io.NodeOutput(replace(pipeline, cache=cache, listener=events.send))


NODES: list[type[io.ComfyNode]] = [ApplyTeaCacheDiffusers]
