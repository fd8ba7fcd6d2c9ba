"""Calibrate TeaCache: what the cache should do on this very model, kept as a profile."""

from __future__ import annotations

import time
from typing import Any

import comfy.utils
import torch
from comfy_api.latest import io, ui
from server import PromptServer

from ..teacache.calibration.calibrator import calibrate_and_save
from ..teacache.calibration.results import calibration_table
from ..teacache.comparison.runner import clock
from ..teacache.errors import ConfigError
from ..teacache.hosts.comfyui.bench import Case, ComfyBench, Settings
from ..teacache.hosts.comfyui.conditions import profile_store
from ..teacache.plots.calibration import calibration_plot
from .sampler_widgets import MAX_SEED, sampler_widgets, seed_widget
from .schema import CATEGORY, advanced, schema, to_image

MORE_PROMPTS = 7
AUTO = "auto"
TEXT_INTERVAL = 0.5  # seconds between two lines of progress on the node


class CalibrateTeaCache(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            search_aliases=["fit coefficients", "plan schedule", "profile"],
            node_id="TeaCacheCalibrate",
            display_name="Calibrate TeaCache",
            category=CATEGORY,
            description=(
                "Samples a few prompts without the cache and with trial plans, and keeps what it "
                "learned of this model as a profile. Apply TeaCache finds it by itself. In place "
                "of a sampler, with the settings that you sample with."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model to calibrate, with its LoRAs."),
                io.Conditioning.Input("positive", tooltip="The first prompt."),
                io.Conditioning.Input("negative", tooltip="What to keep away from."),
                io.Latent.Input(
                    "latent_image", tooltip="An empty latent of the size that you sample."
                ),
                io.String.Input(
                    "name",
                    default=AUTO,
                    tooltip="The profile's name. auto: the model family and a number.",
                ),
                seed_widget(  # unchanged, so that a cancelled calibration goes on with its own
                    "Of the first run's noise; every further run takes the next one.",
                    changes=False,
                ),
                *sampler_widgets(
                    steps="As you sample.",
                    cfg="Guidance scale, as you sample.",
                    sampler_name="As you sample; one that adds no noise.",
                    scheduler="As you sample.",
                ),
                io.Int.Input(
                    "seeds",
                    default=2,
                    min=1,
                    max=32,
                    tooltip="Runs with each prompt. Three or more runs in all are best.",
                ),
                io.Int.Input(
                    "trials",
                    default=2,
                    min=0,
                    max=50,
                    tooltip="Further plans that are tried for each speed-up; more take longer.",
                ),
                io.Boolean.Input(
                    "overwrite", default=False, tooltip="Replace a profile of the same name."
                ),
                *(
                    advanced(
                        io.Conditioning.Input(
                            f"positive_{number}", optional=True, tooltip="A further prompt."
                        )
                    )
                    for number in range(2, MORE_PROMPTS + 2)
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model as it came."),
                io.Image.Output(
                    display_name="picture", tooltip="The fit, and error against speed-up."
                ),
                io.String.Output(
                    display_name="report", tooltip="What was found, and how good it is."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None, overwrite: bool = False) -> bool | str:
        """Refuses an unusable name before anything runs; linked values come at execution."""
        try:
            if name is not None and name != AUTO:
                profile_store().new_path(name, overwrite)
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
        name: str,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        seeds: int,
        trials: int,
        overwrite: bool,
        **more: Any,
    ) -> io.NodeOutput:
        prompts = [positive, *(more[key] for key in sorted(more) if more[key] is not None)]
        numbered = [(number, prompt) for number, prompt in enumerate(prompts, 1)]
        cases = [
            Case(f"prompt {number}", prompt, negative, (seed + run) % (MAX_SEED + 1))
            for run, (number, prompt) in enumerate(
                (number, prompt) for number, prompt in numbered for _ in range(seeds)
            )
        ]
        samples = latent_image["samples"]
        bench = ComfyBench(model, Settings(steps, cfg, sampler_name, scheduler), samples, cases)
        shown = Shown(str(cls.hidden.unique_id))
        with torch.inference_mode():
            calibration = calibrate_and_save(
                profile_store(),
                bench,
                None if name == AUTO else name,
                trials=trials,
                overwrite=overwrite,
                on_progress=shown.progress,
            )
        text = calibration_table(calibration)
        shown.tell(f"profile {calibration.name} is saved")
        picture = to_image(calibration_plot(calibration.to_json()))
        preview = ui.PreviewImage(picture, cls=cls).as_dict() | ui.PreviewText(text).as_dict()
        return io.NodeOutput(model, picture, text, ui=preview)


class Shown:
    """What the node shows of a running calibration: its bar, and the time left in words."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._bar = comfy.utils.ProgressBar(1, node_id=node_id)
        self._begun: float | None = None
        self._first = 0
        self._due = 0.0

    def progress(self, done: int, total: int, what: str) -> None:
        """Also where ComfyUI lets an interrupted prompt stop."""
        self._bar.update_absolute(done, total)
        now = time.monotonic()
        if self._begun is None:
            self._begun, self._first = now, done
        elif now >= self._due and done > self._first:
            self._due = now + TEXT_INTERVAL
            left = (now - self._begun) / (done - self._first) * (total - done)
            self.tell(f"{what}, {clock(left)} left")

    def tell(self, text: str) -> None:
        PromptServer.instance.send_progress_text(text, self._node_id)


NODES: list[type[io.ComfyNode]] = [CalibrateTeaCache]
