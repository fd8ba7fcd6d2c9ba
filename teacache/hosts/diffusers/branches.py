"""Which branch of guidance a call of a diffusers transformer is, told by what it is given."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

TEXT_PREFIXES = ("encoder_hidden_states", "pooled_", "cap_feats", "prompt_")
"""How the names of a transformer's text arguments begin."""
TIMESTEP_NAMES = ("timestep", "timesteps", "t")
MAX_BRANCHES = 16


def arguments_of(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of a call of `module` by name, the latent first."""
    bound = inspect.signature(type(module).forward).bind(module, *args, **kwargs)
    named = dict(bound.arguments)
    named.pop("self")
    more = named.pop("kwargs", {})
    return {**named, **more}


def latent_name(given: Mapping[str, Any]) -> str:
    return next(iter(given))


def timestep_name(given: Mapping[str, Any]) -> str:
    """Name of the timestep's argument. Raises LookupError where there is none."""
    found = [name for name in TIMESTEP_NAMES if name in given]
    if not found:
        raise LookupError(f"no argument is called {' or '.join(TIMESTEP_NAMES)}")
    return found[0]


def timestep_of(given: Mapping[str, Any]) -> torch.Tensor:
    """The timestep of a call: the largest, where tokens have timesteps of their own."""
    values: torch.Tensor = given[timestep_name(given)]
    return values.detach().flatten().max()


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested lists, tuples and dicts."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)


def layout_of(value: Any) -> Hashable:
    """Shapes, types and devices of the tensors in `value`, and what is absent."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.dtype, str(value.device)
    if isinstance(value, Mapping):
        return tuple((str(name), layout_of(item)) for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(layout_of(item) for item in value)
    return type(value).__name__


def _settings(value: Any) -> Hashable:
    """`value` where it is a plain setting, as `skip_layers=[7, 8, 9]`, which makes a branch."""
    if isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(_settings(item) for item in value)
    return None


def _same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    """Whether two lists of tensors hold the same values; those kept in place are not read."""
    return len(one) == len(other) and all(map(_equal, one, other))


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one is other:
        return True
    if (one.shape, one.dtype, one.device) != (other.shape, other.dtype, other.device):
        return False
    in_place = one.data_ptr() == other.data_ptr() and one.stride() == other.stride()
    return in_place or torch.equal(one, other)


class Branches:
    """The branches of one denoising loop.

    A branch is the pipeline's own name for it (`cache_context`), its text, and its settings. The
    texts are held, so that no other tensor can take their place in memory.
    """

    def __init__(self, text_arguments: tuple[str, ...] = ()) -> None:
        self._text_arguments = text_arguments
        self._texts: list[list[torch.Tensor]] = []
        self._keys: set[Hashable] = set()

    def key(self, context: str | None, given: Mapping[str, Any]) -> Hashable:
        """The branch of a call. Raises ValueError where every step brings new branches."""
        named = {
            name: value
            for name, value in given.items()
            if name.startswith(TEXT_PREFIXES) or name in self._text_arguments
        }
        text = list(tensors_in(named))
        known = (index for index, held in enumerate(self._texts) if _same(held, text))
        index = next(known, len(self._texts))
        if index == len(self._texts):
            self._texts.append(text)
        settings = tuple((name, _settings(value)) for name, value in given.items())
        key = (context, index, settings)
        self._keys.add(key)
        if len(self._keys) > MAX_BRANCHES:
            raise ValueError(f"more than {MAX_BRANCHES} different texts or settings in one run")
        return key
