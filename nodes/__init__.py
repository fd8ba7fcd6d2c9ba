"""The pack's extension: its nodes, and the folders of its demo model."""

import logging
from pathlib import Path

import comfy.cli_args
import folder_paths
from comfy_api.latest import ComfyExtension, io
from server import PromptServer

from ..teacache.hosts.comfyui.log_level import log_level
from . import (
    apply,
    apply_pipeline,
    apply_wan_video,
    calibrate,
    compare,
    demo,
    pipeline,
    profiles,
    report,
    sweep,
)
from .events import add_route
from .schema import offer_replacements

MODELS = Path(__file__).parent.parent / "models"


class TeaCacheExtension(ComfyExtension):
    """All nodes of the pack."""

    async def on_load(self) -> None:
        """Registers the replacement of another pack's node."""
        await offer_replacements()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The node classes."""
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
        always = [node for module in modules for node in module.NODES]
        return always + apply_wan_video.offered_nodes()


def comfy_entrypoint() -> TeaCacheExtension:
    """Called by ComfyUI; also adds the demo model's folders to the model folders, and a route.

    The pack's logger gets the level that ComfyUI was started with (`--verbose`), unless it has one:
    other packs change the root logger's. Handlers stay ComfyUI's own.
    """
    log = logging.getLogger("teacache")
    if log.level == logging.NOTSET:
        log.setLevel(log_level(comfy.cli_args.args.verbose))
    for folder in ("diffusion_models", "text_encoders", "vae"):
        folder_paths.add_model_folder_path(folder, str(MODELS / folder))
    add_route(PromptServer.instance)
    return TeaCacheExtension()
