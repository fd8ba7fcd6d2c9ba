"""ComfyUI's door to the pack."""

import sys

from . import teacache
from .nodes import comfy_entrypoint

# Other packs register models of their own with `from teacache import register_family`.
sys.modules.setdefault("teacache", teacache)

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
