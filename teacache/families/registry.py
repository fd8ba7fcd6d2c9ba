"""The table of model families."""

from __future__ import annotations

import logging

from torch import nn

from .comfyui.audio import AUDIO_FAMILIES, AUDIO_UNCACHEABLE
from .comfyui.image import IMAGE_FAMILIES
from .comfyui.image_recent import RECENT_IMAGE_FAMILIES, RECENT_IMAGE_UNCACHEABLE
from .comfyui.three_d import THREE_D_FAMILIES, THREE_D_UNCACHEABLE
from .comfyui.video import VIDEO_FAMILIES, VIDEO_UNCACHEABLE
from .diffusers.image import DIFFUSERS_IMAGE_FAMILIES
from .diffusers.video import DIFFUSERS_VIDEO_FAMILIES
from .generic import generic_family
from .spec import Family, Uncacheable, class_name, unwrap_compiled
from .streams import FamilyMismatch, reading_model

log = logging.getLogger("teacache")

FAMILIES: tuple[Family, ...] = (
    IMAGE_FAMILIES + RECENT_IMAGE_FAMILIES + AUDIO_FAMILIES + THREE_D_FAMILIES + VIDEO_FAMILIES
)
DIFFUSERS_FAMILIES: tuple[Family, ...] = DIFFUSERS_IMAGE_FAMILIES + DIFFUSERS_VIDEO_FAMILIES
"""The same families, by id, as diffusers' classes lay them out."""
UNCACHEABLE: tuple[Uncacheable, ...] = (
    RECENT_IMAGE_UNCACHEABLE + AUDIO_UNCACHEABLE + THREE_D_UNCACHEABLE + VIDEO_UNCACHEABLE
)

__all__ = [
    "DIFFUSERS_FAMILIES",
    "FAMILIES",
    "UNTOUCHED",
    "Family",
    "Sampling",
    "Untouched",
    "class_name",
    "find_family",
    "find_untouched",
    "unwrap_compiled",
]


def find_family(transformer: nn.Module) -> Family | None:
    """The family that `transformer` belongs to; None for one that is left as it is.

    One that the table does not know gets a generic entry where its blocks allow it.
    """
    name, inner = class_name(transformer), unwrap_compiled(transformer)
    for family in FAMILIES + DIFFUSERS_FAMILIES:
        if name not in family.classes:
            continue
        try:
            with reading_model():
                accepted = family.matches(inner)
        except FamilyMismatch as failure:
            log.warning("TeaCache: %s: runs without the cache: %s", family.name, failure)
            return None
        if accepted:
            return family
    return None if find_uncacheable(transformer) else generic_family(inner)


def find_uncacheable(transformer: nn.Module) -> Uncacheable | None:
    """The entry that says why a known model is left as it is, or None if there is none."""
    name = class_name(transformer)
    return next((entry for entry in UNCACHEABLE if name in entry.classes), None)
