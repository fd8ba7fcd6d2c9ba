"""The pack's nodes, and the folder of its demo model."""

from pathlib import Path

import folder_paths
from comfy_api.latest import ComfyExtension, io

from . import apply, demo, report

MODELS = Path(__file__).parent.parent / "models"


class TeaCacheExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [*apply.NODES, *report.NODES, *demo.NODES]


def comfy_entrypoint() -> TeaCacheExtension:
    for folder in ("diffusion_models", "text_encoders", "vae"):
        folder_paths.add_model_folder_path(folder, str(MODELS / folder))
    return TeaCacheExtension()
