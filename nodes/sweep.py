"""Sweep TeaCache: one prompt sampled with many settings of the cache, compared."""

from __future__ import annotations

import time

import torch
from comfy_api.latest import io, ui

from ..teacache.comparison import Axis, Comparison, Variant, grid_points, parse_axis
from ..teacache.comparison.results import notes, results, table
from ..teacache.errors import ConfigError
from ..teacache.hosts.comfyui.backend import (
    TIMED,
    ModelSamplingBackend,
    Prompt,
    SamplerSettings,
)
from ..teacache.plots.pixels import to_pil
from ..teacache.plots.sweep import sweep_plot
from .progress import NodeProgress
from .sampler_widgets import sampler_widgets, seed_widget
from .schema import CATEGORY, advanced, schema, to_image


class SweepTeaCache(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            search_aliases=["XY plot", "x/y grid", "compare thresholds", "benchmark"],
            node_id="TeaCacheSweep",
            display_name="Sweep TeaCache",
            category=CATEGORY,
            description=(
                "Samples without the cache, then with each setting, same seed, and shows the "
                "pictures with their speed-up and similarity. In place of a sampler."
            ),
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "The model, with or without Apply TeaCache: its settings hold wherever "
                        "x and y set nothing."
                    ),
                ),
                io.Conditioning.Input("positive", tooltip="What to draw."),
                io.Conditioning.Input("negative", tooltip="What to keep away from."),
                io.Latent.Input("latent_image", tooltip="The latent to denoise."),
                io.Vae.Input("vae", tooltip="Decodes the pictures that are compared."),
                io.String.Input(
                    "x",
                    default="rel_l1_thresh: 0.1, 0.2, 0.4",
                    tooltip="A setting of Apply TeaCache and its values, along the picture.",
                ),
                io.String.Input(
                    "y",
                    default="",
                    tooltip=(
                        "A second setting, down the picture, such as mode: forecast, faithful. "
                        "May be empty."
                    ),
                ),
                seed_widget("Of the noise, the same for all.", changes=True),
                *sampler_widgets(
                    steps="Sampling steps.",
                    cfg="Guidance scale.",
                    sampler_name="As in KSampler.",
                    scheduler="As in KSampler.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="As in KSampler: below 1 it starts from the latent.",
                ),
                advanced(
                    io.Int.Input(
                        "repeats",
                        default=1,
                        min=1,
                        max=20,
                        tooltip="Runs of each setting, in turn; the median time counts.",
                    )
                ),
                advanced(
                    io.Boolean.Input(
                        "fewer_steps",
                        default=True,
                        optional=True,
                        tooltip=(
                            "Sample as well what takes as long without the cache: for each "
                            "setting as many steps as it computed."
                        ),
                    )
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="grid",
                    tooltip="All pictures with their figures, and quality against speed.",
                ),
                io.Image.Output(
                    display_name="images",
                    tooltip=(
                        "The picture without the cache, those of the points, then those of fewer "
                        "steps."
                    ),
                ),
                io.String.Output(
                    display_name="table", tooltip="Time, steps, speed-up and similarity of each."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, x: str | None = None, y: str | None = None) -> bool | str:
        """Refuses the prompt before anything of the graph runs; linked texts come at execution."""
        try:
            if x is not None:
                grid_points(*parse_axes(x, y or ""))
            elif y:
                parse_axis(y, "y")
        except ConfigError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        positive: io.Conditioning.Type,
        negative: io.Conditioning.Type,
        latent_image: io.Latent.Type,
        vae: io.Vae.Type,
        x: str,
        y: str,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        denoise: float,
        repeats: int = 1,
        fewer_steps: bool = True,
    ) -> io.NodeOutput:
        across, down = parse_axes(x, y)
        comparison = Comparison(grid_points(across, down), repeats, fewer_steps)
        display = NodeProgress(str(cls.hidden.unique_id), logged_as="sweep")
        backend = ModelSamplingBackend(
            model,
            vae,
            latent_image,
            SamplerSettings(steps, cfg, sampler_name, scheduler, denoise),
            Prompt(positive, negative, seed),
            display.set_preview,
        )
        pictures: dict[Variant, torch.Tensor] = {}
        began = time.monotonic()
        comparison.check(backend)
        comparison.run(backend, display.update, pictures.__setitem__)
        report = results(comparison, across, down, TIMED, {})
        cells = [
            None if variant.picture is None else to_pil(variant.picture)
            for variant in (comparison.reference, *comparison.variants)
        ]
        grid = to_image(sweep_plot(report, cells))
        figures = [report["reference"], *report["points"], *report["fewer_steps"]]
        text = "\n".join([table(figures), "", *notes(report)])
        display.show_text(f"{len(pictures)} pictures in {time.monotonic() - began:.0f} s")
        in_order = [pictures[v] for v in comparison.all_variants if v in pictures]
        preview = ui.PreviewImage(grid, cls=cls).as_dict() | ui.PreviewText(text).as_dict()
        return io.NodeOutput(grid, torch.cat(in_order), text, ui=preview)


def parse_axes(x: str, y: str) -> tuple[Axis, Axis | None]:
    """Both axes; `ConfigError` naming the widget."""
    return parse_axis(x, "x"), parse_axis(y, "y") if y.strip() else None


NODES: list[type[io.ComfyNode]] = [SweepTeaCache]
