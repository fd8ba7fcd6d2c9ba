"""The pack's nodes, and the folder of its demo model."""

from pathlib import Path

import folder_paths
from comfy_api.latest import ComfyExtension, io

from . import (
    apply,
    apply_pipeline,
    calibrate,
    compare,
    demo,
    pipeline,
    profiles,
    report,
    sweep,
)
from .schema import offer_replacements

MODELS = Path(__file__).parent.parent / "models"


class TeaCacheExtension(ComfyExtension):
    async def on_load(self) -> None:
        await offer_replacements()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        modules = (
            apply,
            report,
            compare,
            sweep,
            calibrate,
            profiles,
            demo,
            pipeline,
            apply_pipeline,
        )
        return [node for module in modules for node in module.NODES]


def comfy_entrypoint() -> TeaCacheExtension:
    for folder in ("diffusion_models", "text_encoders", "vae"):
        folder_paths.add_model_folder_path(folder, str(MODELS / folder))
    return TeaCacheExtension()
