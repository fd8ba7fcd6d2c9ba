"""The known model families: those of the tables, and those that users and other packs register."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from torch import nn

from ..errors import ConfigError
from ..profiles.profile import Profile, load_profiles
from .comfyui.audio import AUDIO_FAMILIES, AUDIO_UNCACHEABLE
from .comfyui.image import IMAGE_FAMILIES
from .comfyui.image_recent import RECENT_IMAGE_FAMILIES, RECENT_IMAGE_UNCACHEABLE
from .comfyui.three_d import THREE_D_FAMILIES, THREE_D_UNCACHEABLE
from .comfyui.video import VIDEO_FAMILIES, VIDEO_UNCACHEABLE
from .diffusers.dual_stream import DIFFUSERS_DUAL_STREAM_FAMILIES
from .diffusers.image import DIFFUSERS_IMAGE_FAMILIES
from .diffusers.recent import DIFFUSERS_RECENT_FAMILIES, DIFFUSERS_UNCACHEABLE
from .diffusers.video import DIFFUSERS_VIDEO_FAMILIES
from .generic import forecast_only_family, generic_family
from .registration import checked_family
from .spec import Family, Uncacheable, class_names, unwrap_compiled
from .streams import FamilyMismatch, reading_model

log = logging.getLogger("teacache")

FAMILIES: tuple[Family, ...] = (
    IMAGE_FAMILIES + RECENT_IMAGE_FAMILIES + AUDIO_FAMILIES + THREE_D_FAMILIES + VIDEO_FAMILIES
)
DIFFUSERS_FAMILIES: tuple[Family, ...] = (
    DIFFUSERS_IMAGE_FAMILIES
    + DIFFUSERS_VIDEO_FAMILIES
    + DIFFUSERS_RECENT_FAMILIES
    + DIFFUSERS_DUAL_STREAM_FAMILIES
)
"""The same families, by id, as diffusers' classes lay them out."""
UNCACHEABLE: tuple[Uncacheable, ...] = (
    RECENT_IMAGE_UNCACHEABLE
    + AUDIO_UNCACHEABLE
    + THREE_D_UNCACHEABLE
    + VIDEO_UNCACHEABLE
    + DIFFUSERS_UNCACHEABLE
)


class FamilyRegistry:
    """Families that were registered in this process, by id."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}

    def __iter__(self) -> Iterator[Family]:
        return iter(self._families.values())

    def add(self, family: Family) -> None:
        """Add a checked family.

        Raises:
            ConfigError: its id, one of its classes or one of its profiles is taken.
        """
        known = (*self._families.values(), *FAMILIES, *DIFFUSERS_FAMILIES)
        if family.id in self._families:
            raise ConfigError(
                f"family {family.id!r} is registered already: unregister_family({family.id!r}) "
                "takes it out"
            )
        if any(other.id == family.id for other in known):
            raise ConfigError(f"family {family.id!r}: a shipped family has this id; choose another")
        for name in family.classes:
            for other in known:
                if name in other.classes:
                    raise ConfigError(f"class {name} belongs to the family {other.id!r} already")
            for entry in UNCACHEABLE:
                if name in entry.classes:
                    raise ConfigError(f"class {name} is known and left as it is: {entry.reason}")
        for profile in family.profiles:
            if profile.name in (*self.profiles(), *load_profiles(), "auto"):
                raise ConfigError(f"profile {profile.name!r} exists: give the family another id")
        self._families[family.id] = family

    def remove(self, family_id: str) -> None:
        """Take a family out; nothing happens where it is not registered."""
        self._families.pop(family_id, None)

    def profiles(self) -> dict[str, Profile]:
        """The profiles of the registered families, by name."""
        return {profile.name: profile for family in self for profile in family.profiles}


REGISTRY = FamilyRegistry()
"""What `register_family` fills: one per process, like the modules that define the models."""


def register_family(
    family: Family,
    *,
    coefficients: Sequence[float] | None = None,
    rel_l1_thresh: float = 0.2,
    source: str = "registered by the user",
    transformer: nn.Module | None = None,
) -> Family:
    """Make a model of your own known to the cache, in ComfyUI and in diffusers.

    Args:
        family: `id`, `name`, `classes` (full names, or the classes themselves) and `block_lists`
            are needed. `modulated_input` or `embed_timesteps` give the faithful mode its indicator;
            without them it compares the input of the block stack. `text_arguments` names arguments
            of the transformer that tell the branches of guidance apart.
        coefficients: of the polynomial that rescales the indicator's change, highest power first,
            of any degree from 1; None leaves the change as it is.
        rel_l1_thresh: recommended threshold of the faithful mode.
        source: where the coefficients come from.
        transformer: an instance; the family is then checked against it.

    Returns:
        The family as it was registered.

    Raises:
        ConfigError: something is wrong or taken; nothing is registered then.
    """
    checked = checked_family(family, coefficients, rel_l1_thresh, source, transformer)
    REGISTRY.add(checked)
    return checked


def unregister_family(family_id: str) -> None:
    """Take a registered family out; nothing happens where it is not registered."""
    REGISTRY.remove(family_id)


def known_profiles() -> dict[str, Profile]:
    """The shipped profiles and those of registered families, by name."""
    return {**load_profiles(), **REGISTRY.profiles()}


def find_family(transformer: nn.Module) -> Family | None:
    """The family that `transformer` belongs to; None for one that is left as it is.

    A model that is not known gets a generic entry, with its blocks where they allow it.
    """
    inner = unwrap_compiled(transformer)
    known: list[Family] = [*REGISTRY, *FAMILIES, *DIFFUSERS_FAMILIES]
    for name in class_names(transformer):
        for family in known:
            if name not in family.classes:
                continue
            try:
                with reading_model():
                    matches = family.matches(inner)
            except FamilyMismatch as mismatch:
                log.warning("TeaCache: %s: can only be forecast: %s", family.name, mismatch)
                return forecast_only_family(family.name)
            if matches:
                return family
        for entry in UNCACHEABLE:
            if name in entry.classes:
                return forecast_only_family(entry.name) if entry.forecast else None
    return generic_family(inner)


def find_uncacheable(transformer: nn.Module) -> Uncacheable | None:
    """The entry that says why a known model's blocks cannot be cached; None if there is none."""
    names = class_names(transformer)
    return next((e for name in names for e in UNCACHEABLE if name in e.classes), None)
