"""The networks that a pipeline runs in every step, and which of them the cache serves."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ...families.registry import find_family
from ...families.spec import Family, unwrap_compiled
from .branches import TIMESTEP_NAMES

TRANSFORMERS = ("transformer", "transformer_2")
"""What pipelines call the transformers that denoise, whatever they take."""
DENOISERS = (*TRANSFORMERS, "unet", "prior", "decoder")
"""What pipelines call the networks that denoise; one of any class may be forecast."""
TIMES = (*TIMESTEP_NAMES, "time", "sigma", "noise_level")
"""Names of the argument that tells a network how far the denoising is."""


def denoisers_of(pipe: Any) -> dict[str, nn.Module]:
    """Every network on `pipe` that takes a timestep, component or attribute, by name.

    Those called as `DENOISERS` come first; each network is there once.
    """
    named = {**pipe.components, **vars(pipe)}
    order = [*DENOISERS, *(name for name in named if name not in DENOISERS)]
    found: dict[str, nn.Module] = {}
    for name in order:
        module = named.get(name)
        if not isinstance(module, nn.Module) or not (name in TRANSFORMERS or _denoises(module)):
            continue
        if all(unwrap_compiled(known) is not unwrap_compiled(module) for known in found.values()):
            found[name] = module
    return found


def _denoises(module: nn.Module) -> bool:
    parameters = inspect.signature(type(unwrap_compiled(module)).forward).parameters
    return any(name in parameters for name in TIMES)


def recognisable(denoisers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Those whose family may be the pipeline's.

    Beside one of the names in `DENOISERS`, a network that no family describes is a ControlNet
    rather than a denoiser, though its blocks may allow a generic entry. By itself it is the
    denoiser, whatever it is called.
    """
    known = {
        name: module
        for name, module in denoisers.items()
        if name in DENOISERS or _described(find_family(module))
    }
    return known or (dict(denoisers) if len(denoisers) == 1 else {})


def of_family(denoisers: Mapping[str, nn.Module], family: Family) -> dict[str, nn.Module]:
    """Those that the cache of `family` serves: the same decision skips them."""
    candidates = recognisable(denoisers)
    kinds = {type(unwrap_compiled(module)) for module in candidates.values()}
    return {
        name: module
        for name, module in denoisers.items()
        if _same(find_family(module), family)
        and (name in candidates or type(unwrap_compiled(module)) in kinds)
    }


def without(denoisers: Mapping[str, nn.Module], names: Iterable[str]) -> dict[str, nn.Module]:
    """`denoisers` but for those called `names`."""
    left_out = set(names)
    return {name: module for name, module in denoisers.items() if name not in left_out}


def _described(family: Family | None) -> bool:
    return family is not None and bool(family.classes)


def _same(one: Family | None, other: Family) -> bool:
    return one is not None and (one.id, one.block_lists) == (other.id, other.block_lists)
