"""The widgets of a KSampler, for nodes that sample in its place."""

from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io

MAX_SEED = 2**64 - 1


def seed_widget(tooltip: str, changes: bool) -> io.Input:
    """changes: whether the editor gives the seed a control that draws a new one for each run."""
    return io.Int.Input(
        "seed", default=0, min=0, max=MAX_SEED, control_after_generate=changes, tooltip=tooltip
    )


def sampler_widgets(steps: str, cfg: str, sampler_name: str, scheduler: str) -> list[io.Input]:
    """steps, cfg, sampler_name and scheduler, each with its tooltip."""
    return [
        io.Int.Input("steps", default=20, min=1, max=10000, tooltip=steps),
        io.Float.Input("cfg", default=3.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=cfg),
        io.Combo.Input(
            "sampler_name",
            options=comfy.samplers.KSampler.SAMPLERS,
            default="euler",
            tooltip=sampler_name,
        ),
        io.Combo.Input(
            "scheduler",
            options=comfy.samplers.KSampler.SCHEDULERS,
            default="simple",
            tooltip=scheduler,
        ),
    ]
