"""What the cache must know of a model family, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..profiles.profile import Profile
from .streams import BlockArguments, BlockList, SideBlockList

ModulatedInput = Callable[[Any, BlockArguments], torch.Tensor]
"""(first block, its arguments) -> the block's modulated image tokens, [rows, tokens, width]."""

EmbedTimesteps = Callable[[Any, torch.Tensor], torch.Tensor]
"""(transformer, timesteps [n]) -> their embeddings, [n, width]."""

TIMESTEP_INDICATORS = ("timestep", "timestep_projection")
"""Profile indicators that follow from the noise level alone, read by `EmbedTimesteps`."""


@dataclass(frozen=True)
class RunScope:
    """The part of the denoising that a run covers.

    Args:
        latent: shape of the latent, the batch first.
        full_range: it goes from pure noise to none, not over a part of the noise levels.
    """

    latent: tuple[int, ...]
    full_range: bool


@dataclass(frozen=True)
class Family:
    """One model family.

    Args:
        id: short and stable; profiles name it.
        name: for users.
        classes: full names of the transformer classes, matched exactly and never imported.
        block_lists: the block stack, in the order in which it runs; empty where the blocks are not
            known, so that the model can only be forecast.
        default_profile: transformer -> name of its profile; None for a family that brings its own.
        modulated_input, embed_timesteps, project_timesteps: how the profile indicators
            `modulated_input`, `timestep` and `timestep_projection` are read; None where the
            family has none.
        profile_for_run: (transformer, scope) -> name of the profile, where the run decides as well;
            `default_profile` is then the one shown before the run.
        side_block_lists: blocks beside the stack that are skipped with it.
        matches: transformer -> whether it belongs here; tells families apart that share a class.
        indicator_depends_on_text: whether the modulated input differs between branches of guidance.
        text_arguments: names of the transformer's arguments that differ between branches of
            guidance, beside the usual ones (diffusers).
        returns_several: whether the transformer returns several values, such as film and sound,
            each for a scheduler of its own (diffusers): then its residuals are forecast.
        profiles: the family's own profiles, beside the shipped ones; the first is the default.
        tested: "run" on tiny instances of the class; "newer", the same in a newer ComfyUI than the
            oldest supported one; "stand_in", on a class of the same structure; "read" in the source
            of a newer one.
    """

    id: str
    name: str
    classes: tuple[str, ...]
    block_lists: tuple[BlockList, ...]
    default_profile: Callable[[Any], str] | None = None
    modulated_input: ModulatedInput | None = None
    embed_timesteps: EmbedTimesteps | None = None
    project_timesteps: EmbedTimesteps | None = None
    profile_for_run: Callable[[Any, RunScope], str] | None = None
    side_block_lists: tuple[SideBlockList, ...] = ()
    matches: Callable[[Any], bool] = lambda transformer: True
    indicator_depends_on_text: bool = True
    text_arguments: tuple[str, ...] = ()
    returns_several: bool = False
    profiles: tuple[Profile, ...] = ()
    tested: str = "run"

    @property
    def forecast_only(self) -> bool:
        """Whether nothing is known of the blocks: predictions can be extrapolated, residuals not
        cached."""
        return not self.block_lists

    def profile_of(self, transformer: Any) -> str:
        """Name of the default profile of `transformer`."""
        if self.default_profile is not None:
            return self.default_profile(transformer)
        return self.profiles[0].name


@dataclass(frozen=True)
class Uncacheable:
    """A model whose block stack cannot be cached, and why.

    Args:
        name: for users.
        classes: as in `Family`.
        reason: the second half of a sentence.
        forecast: whether its predictions can be extrapolated; otherwise it is left as it is.
    """

    name: str
    classes: tuple[str, ...]
    reason: str
    forecast: bool = False


def class_name(transformer: nn.Module) -> str:
    """Full name of the transformer's class, seen through torch.compile's wrapper."""
    kind = type(unwrap_compiled(transformer))
    return f"{kind.__module__}.{kind.__qualname__}"


HOST_PACKAGES = ("comfy", "diffusers")


def class_names(transformer: nn.Module) -> list[str]:
    """The names by which a transformer may be known: its class, and for a foreign class its bases.

    Other packs swap a model's class for one derived from it. A class of ComfyUI or diffusers itself
    is known by its own name alone: it may differ from its base in what counts here.
    """
    kinds = type(unwrap_compiled(transformer)).__mro__
    if kinds[0].__module__.partition(".")[0] in HOST_PACKAGES:
        kinds = kinds[:1]
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in kinds]


def unwrap_compiled(transformer: nn.Module) -> nn.Module:
    """The module inside torch.compile's wrapper, or the module itself."""
    inner = transformer._modules.get("_orig_mod")
    return transformer if inner is None else inner
