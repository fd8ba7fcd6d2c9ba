"""The table of model families."""

from __future__ import annotations

from torch import nn

from .base import Family, class_name, unwrap_compiled
from .image import IMAGE_FAMILIES
from .video import VIDEO_FAMILIES

FAMILIES: tuple[Family, ...] = IMAGE_FAMILIES + VIDEO_FAMILIES

__all__ = ["FAMILIES", "Family", "class_name", "find_family", "unwrap_compiled"]


def find_family(transformer: nn.Module) -> Family | None:
    """The family that `transformer` belongs to, or None if the table has none."""
    name, inner = class_name(transformer), unwrap_compiled(transformer)
    for family in FAMILIES:
        if name in family.classes and family.accepts(inner):
            return family
    return None
