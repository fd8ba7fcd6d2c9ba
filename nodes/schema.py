"""What differs between ComfyUI versions in a node's schema, in one place."""

from __future__ import annotations

from typing import TypeVar

from comfy_api.latest import io

AnyInput = TypeVar("AnyInput", bound=io.Input)


def advanced(widget: AnyInput) -> AnyInput:
    """`widget`, folded away under the node's advanced inputs where the editor can.

    0.3.75 has no argument for it, but every version passes extra entries on to the editor.
    """
    widget.extra_dict["advanced"] = True
    return widget
