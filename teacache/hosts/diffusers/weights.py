"""The weights of a transformer, wherever accelerate keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ...digest import digest_of_weights
from ...families.spec import unwrap_compiled
from ...families.streams import FamilyMismatch, reading_model
from ...profiles.conditions import UNKNOWN_DIGEST

OFFLOAD_HOOK = "_hf_hook"
"""Where accelerate keeps a module's hook (`accelerate/hooks.py`, `add_hook_to_module`)."""


def weights_digest(transformer: nn.Module) -> str:
    """The digest of the weights; unknown where some cannot be read."""
    try:
        with reading_model():
            return digest_of_weights(weights_of(transformer))
    except FamilyMismatch:
        return UNKNOWN_DIGEST


def weights_of(transformer: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and values of the parameters.

    With sequential CPU offload the parameters have no values: a hook on their module fetches them
    from its `weights_map` when the module runs.
    """
    module = unwrap_compiled(transformer)
    for name, parameter in module.named_parameters():
        if parameter.is_meta:
            owner, _, own = name.rpartition(".")
            yield name, _offloaded(module.get_submodule(owner), own)
        else:
            yield name, parameter


def _offloaded(owner: nn.Module, name: str) -> torch.Tensor:
    """Parameter `name` of `owner` from where it was offloaded to.

    Raises:
        KeyError: it is not known where that is.
    """
    for hook in _hooks(vars(owner).get(OFFLOAD_HOOK)):
        held = vars(hook).get("weights_map")
        if held is not None:
            weight: torch.Tensor = held[name]
            return weight
    raise KeyError(name)


def _hooks(hook: Any) -> list[Any]:
    """The hooks of a module: accelerate joins several in one."""
    if hook is None:
        return []
    joined = vars(hook).get("hooks")
    return [hook] if joined is None else list(joined)
