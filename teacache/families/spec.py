"""What the cache must know of a model family, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..engine.indicators import EmbedTimesteps, ModulatedInput
from .streams import BlockList, SideList


@dataclass(frozen=True)
class Sampling:
    """What a sampling run is about to do.

    latent: shape of the latent, the batch first. whole: whether it goes from pure noise to none,
    and not over a part of the noise levels.
    """

    latent: tuple[int, ...]
    whole: bool


@dataclass(frozen=True)
class Family:
    """One model family.

    classes: full names of the transformer classes, matched exactly and never imported.
    lists: the block stack, in the order in which it runs. sides: blocks passed over on a skip.
    modulated_input, embed_timesteps, project_timesteps: how the indicators `modulated_input`,
        `timestep` and `timestep_projection` are read; None where the family has none.
    profile: the default profile's name, given the transformer. run_profile: the same where the
        run decides as well; `profile` is then the one named before the run.
    sees_text: whether the modulated input differs between branches of guidance.
    accepts: tells apart families that share a class. tested: "run" on tiny instances of the
        class; "newer", the same in a newer ComfyUI than the oldest supported one; or "read" in
        the source of a newer one.
    """

    id: str
    name: str
    classes: tuple[str, ...]
    lists: tuple[BlockList, ...]
    profile: Callable[[Any], str]
    modulated_input: ModulatedInput | None = None
    embed_timesteps: EmbedTimesteps | None = None
    project_timesteps: EmbedTimesteps | None = None
    run_profile: Callable[[Any, Sampling], str] | None = None
    sides: tuple[SideList, ...] = ()
    accepts: Callable[[Any], bool] = lambda transformer: True
    sees_text: bool = True
    tested: str = "run"


@dataclass(frozen=True)
class Untouched:
    """A model that is known and left as it is, and why."""

    name: str
    classes: tuple[str, ...]
    reason: str


def class_name(transformer: nn.Module) -> str:
    """Full name of the transformer's class, seen through torch.compile's wrapper."""
    kind = type(unwrap_compiled(transformer))
    return f"{kind.__module__}.{kind.__qualname__}"


def unwrap_compiled(transformer: nn.Module) -> nn.Module:
    """The module under torch.compile's wrapper, or the module itself."""
    inner = transformer._modules.get("_orig_mod")
    return transformer if inner is None else inner
