"""Calibrate TeaCache: what the cache should do on this very model, saved as a profile."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..teacache.calibration.calibrator import calibrate_and_save
from ..teacache.calibration.results import calibration_table
from ..teacache.calibration.shards import in_turn
from ..teacache.errors import ConfigError
from ..teacache.hosts.comfyui.backend import (
    ModelCalibrationBackend,
    SamplerSettings,
    calibration_prompts,
)
from ..teacache.hosts.comfyui.conditions import profile_store
from ..teacache.plots.calibration import calibration_plot
from .progress import NodeProgress
from .sampler_widgets import sampler_widgets, seed_widget
from .schema import CATEGORY, advanced, schema, to_image

MORE_PROMPTS = 7
AUTO = "auto"


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
                io.Boolean.Input(
                    "quick",
                    default=False,
                    optional=True,
                    tooltip=(
                        "Learn from one run of the first prompt without the cache, in the time of "
                        "one picture, and try no plans. A wanted speed-up then goes by it."
                    ),
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
        quick: bool = False,
        **more: Any,
    ) -> io.NodeOutput:
        prompts = calibration_prompts(positive, negative, more, seed, seeds)
        settings = SamplerSettings(steps, cfg, sampler_name, scheduler)
        backend = ModelCalibrationBackend(model, latent_image, settings, prompts)
        display = NodeProgress(str(cls.hidden.unique_id))
        calibration = calibrate_and_save(
            profile_store(),
            backend,
            in_turn(backend),
            None if name == AUTO else name,
            trials=trials,
            quick=quick,
            overwrite=overwrite,
            on_progress=display.update,
        )
        text = calibration_table(calibration)
        display.show_text(f"profile {calibration.name} is saved")
        picture = to_image(calibration_plot(calibration.to_json()))
        preview = ui.PreviewImage(picture, cls=cls).as_dict() | ui.PreviewText(text).as_dict()
        return io.NodeOutput(model, picture, text, ui=preview)


NODES: list[type[io.ComfyNode]] = [CalibrateTeaCache]
