"""Sweep TeaCache: one prompt sampled with many settings of the cache, side by side."""

from __future__ import annotations

import logging
import time

import comfy.utils
import torch
from comfy_api.latest import io, ui
from server import PromptServer

from ..teacache.comparison import Axis, Progress, Side, Sweep, grid_points, parse_axis
from ..teacache.comparison.results import notes, results, table
from ..teacache.errors import ConfigError
from ..teacache.hosts.comfyui.sweep_model import TIMED, ModelHost, Preview, SamplerInputs
from ..teacache.plots.pixels import to_pil
from ..teacache.plots.sweep import sweep_plot
from .sampler_widgets import sampler_widgets, seed_widget
from .schema import CATEGORY, advanced, schema, to_image

log = logging.getLogger("teacache")
TEXT_INTERVAL = 0.5  # seconds between two lines of progress on the node


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
            ],
            outputs=[
                io.Image.Output(
                    display_name="grid",
                    tooltip="All pictures with their figures, and quality against speed.",
                ),
                io.Image.Output(
                    display_name="images",
                    tooltip="The picture without the cache, then those of the points.",
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
    ) -> io.NodeOutput:
        across, down = parse_axes(x, y)
        sweep = Sweep(grid_points(across, down), repeats)
        inputs = SamplerInputs(
            positive, negative, latent_image, seed, steps, cfg, sampler_name, scheduler, denoise
        )
        shown = Shown(str(cls.hidden.unique_id))
        host = ModelHost(model, vae, inputs, shown.preview)
        kept: dict[Side, torch.Tensor] = {}

        def keep(side: Side, pictures: torch.Tensor) -> None:
            kept[side] = pictures

        sweep.check(host)
        sweep.run(host, shown.progress, keep)
        report = results(sweep, across, down, TIMED, {})
        thumbnails = [
            None if side.thumbnail is None else to_pil(side.thumbnail) for side in sweep.everyone
        ]
        grid = to_image(sweep_plot(report, thumbnails))
        text = "\n".join([table(report), "", *notes(report)])
        shown.done(len(kept) - 1)
        pictures = torch.cat([kept[side] for side in sweep.everyone if side in kept])
        preview = ui.PreviewImage(grid, cls=cls).as_dict() | ui.PreviewText(text).as_dict()
        return io.NodeOutput(grid, pictures, text, ui=preview)


def parse_axes(x: str, y: str) -> tuple[Axis, Axis | None]:
    """Both axes; `ConfigError` naming the widget."""
    return parse_axis(x, "x"), parse_axis(y, "y") if y.strip() else None


class Shown:
    """What the node shows of a running sweep: its bar, previews, and the time left in words."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._bar = comfy.utils.ProgressBar(1, node_id=node_id)
        self._preview: Preview | None = None
        self._begun = time.monotonic()
        self._due = 0.0

    def preview(self, preview: Preview | None) -> None:
        self._preview = preview

    def progress(self, progress: Progress) -> None:
        """Also where ComfyUI lets an interrupted prompt stop."""
        self._bar.update_absolute(progress.done, progress.runs, self._preview)
        if progress.share == 0:
            log.info("TeaCache: sweep: %s", progress)
        now = time.monotonic()
        if now >= self._due or progress.share == 0:
            self._due = now + TEXT_INTERVAL
            self._tell(str(progress))

    def done(self, points: int) -> None:
        self._tell(f"{points} points in {time.monotonic() - self._begun:.0f} s")

    def _tell(self, text: str) -> None:
        PromptServer.instance.send_progress_text(text, self._node_id)


NODES: list[type[io.ComfyNode]] = [SweepTeaCache]
