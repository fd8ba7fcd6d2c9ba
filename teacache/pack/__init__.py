"""The node pack in an installed package: a wheel holds `nodes`, `models` and `workflows` here.

In a checkout, and in ComfyUI's custom_nodes, the folder around the library is the pack.
"""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
