"""TeaCache Report: what the cache did in the run that produced a latent."""

from __future__ import annotations

import json

from comfy_api.latest import io

from ..teacache.hosts.comfyui.patch import cached_model
from ..teacache.hosts.comfyui.wan_video import wan_video_is_there
from ..teacache.plots.timeline import timeline
from .schema import CATEGORY, WanVideoSocket, schema, to_image


class TeaCacheReport(io.ComfyNode):
    """Returns a run's timeline and its report."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            search_aliases=["skipped steps", "cache statistics", "timeline"],
            node_id="TeaCacheReport",
            display_name="TeaCache Report",
            category=CATEGORY,
            description="Shows which steps were skipped, why, and what that saved.",
            inputs=[
                io.Latent.Input(
                    "latent", tooltip="The sampler's output, so that the report comes after it."
                ),
                _cached_model_input("The model that Apply TeaCache gave the sampler."),
            ],
            outputs=[
                io.Image.Output(
                    display_name="timeline", tooltip="Steps, distance against threshold, times."
                ),
                io.String.Output(display_name="report", tooltip="The report as JSON."),
            ],
        )

    @classmethod
    def execute(cls, latent: io.Latent.Type, model: io.Model.Type) -> io.NodeOutput:
        handle = cached_model(model)
        if handle is None:
            raise ValueError("model: no Apply TeaCache is on it; connect the output of that node")
        report = handle.report_for(latent["samples"])
        if report is None:
            raise ValueError(
                "latent: this model has not sampled yet; connect the latent of the sampler that "
                "uses it"
            )
        data = report.to_json()
        return io.NodeOutput(to_image(timeline(data)), json.dumps(data, indent=2))


def _cached_model_input(tooltip: str) -> io.Input:
    """The input for a model, which may be one of WanVideoWrapper where that pack is there."""
    if wan_video_is_there():
        return io.MultiType.Input("model", [io.Model, WanVideoSocket], tooltip=tooltip)
    return io.Model.Input("model", tooltip=tooltip)


NODES: list[type[io.ComfyNode]] = [TeaCacheReport]
