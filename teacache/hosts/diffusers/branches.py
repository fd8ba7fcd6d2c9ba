"""Identifies the guidance branch of a diffusers transformer call by the call's arguments."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from .reads import TensorReads, same_memory

TEXT_PREFIXES = (
    "encoder_hidden_states",
    "pooled_",
    "cap_feats",
    "prompt_",
    "added_cond_kwargs",
    "class_labels",
    "clip_",
    "proj_embedding",
)
"""Prefixes of the names of denoisers' arguments that hold a text, or an image in its place."""
TIMESTEP_NAMES = ("timestep", "timesteps", "t", "timestep_ratio", "vision_timesteps")
LATENT_NAMES = ("vision_tokens",)
"""Names of the latent's argument where it is not the first one."""
STEP_SETTINGS = ("kv_cache_mode",)
"""Plain arguments that change from step to step within a branch."""
STRENGTH = "conditioning_scale"
"""Name of the argument of ControlNets that says how strongly they count."""
MAX_BRANCHES = 16


def arguments_of(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of a call of `module` by parameter name, in the order of its `forward`.

    Raises:
        TypeError: The arguments do not fit `forward`.
    """
    bound = inspect.signature(type(module).forward).bind(module, *args, **kwargs)
    named = dict(bound.arguments)
    named.pop("self")
    more = named.pop("kwargs", {})
    return {**named, **more}


def latent_name(arguments: Mapping[str, Any]) -> str:
    """The name of the latent's argument: the first one, or one of `LATENT_NAMES`."""
    return next((name for name in LATENT_NAMES if name in arguments), next(iter(arguments)))


def timestep_name(arguments: Mapping[str, Any]) -> str:
    """The name of the timestep's argument.

    Raises:
        LookupError: There is none.
    """
    names = [name for name in TIMESTEP_NAMES if name in arguments]
    if not names:
        raise LookupError(f"no argument is called {' or '.join(TIMESTEP_NAMES)}")
    return names[0]


def timestep_of(arguments: Mapping[str, Any]) -> torch.Tensor:
    """The timestep of a call, a scalar: the largest one where it differs between tokens."""
    values = arguments[timestep_name(arguments)]
    if not isinstance(values, torch.Tensor):
        return torch.tensor(float(values))
    return values.detach().flatten().max()


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested lists, tuples and mappings."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)


def layout_of(value: Any) -> Hashable:
    """A key for the structure of `value`: shape, dtype and device of tensors, type of the rest."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.dtype, str(value.device)
    if isinstance(value, Mapping):
        return tuple((str(name), layout_of(item)) for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(layout_of(item) for item in value)
    return type(value).__name__


def strength_of(arguments: Mapping[str, Any]) -> Hashable:
    """How strongly a ControlNet is to count, None where nothing is said; 0 where it has ended."""
    strength = arguments.get(STRENGTH)
    if isinstance(strength, (list, tuple)):
        return tuple(strength_of({STRENGTH: item}) for item in strength)
    return float(strength) if isinstance(strength, (int, float)) else None


def _plain_value(value: Any) -> Hashable:
    """`value` with None for all but bools, ints and strings, as `skip_layers=[7, 8, 9]`."""
    if isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(_plain_value(item) for item in value)
    return None


class Branches:
    """The guidance branches of one denoising loop.

    Calls belong to the same branch if they have the same `cache_context` name, equal text
    embeddings and equal plain arguments (bools, ints and strings) but for the `STEP_SETTINGS`. The
    embeddings are held for the whole loop, so that their memory is not reused for other ones.

    Args:
        reads: counts the comparisons.
        text_arguments: Names of text arguments that have none of the `TEXT_PREFIXES`.
    """

    def __init__(self, reads: TensorReads, text_arguments: tuple[str, ...] = ()) -> None:
        self._reads = reads
        self._text_arguments = text_arguments
        self._texts: list[list[torch.Tensor]] = []
        self._keys: set[Hashable] = set()

    def key(self, context: str | None, arguments: Mapping[str, Any]) -> Hashable:
        """The key of a call's branch.

        Args:
            context: The name that the pipeline gave to `cache_context`, None outside of one.
            arguments: The call's arguments by name.

        Raises:
            ValueError: There are more than `MAX_BRANCHES` branches: the embeddings or arguments
                change from step to step.
        """
        named = {
            name: value
            for name, value in arguments.items()
            if name.startswith(TEXT_PREFIXES) or name in self._text_arguments
        }
        text = list(tensors_in(named))
        index = self._index_of(text)
        plain = tuple(
            (name, _plain_value(value))
            for name, value in arguments.items()
            if name not in STEP_SETTINGS
        )
        key = (context, index, plain)
        self._keys.add(key)
        if len(self._keys) > MAX_BRANCHES:
            raise ValueError(f"more than {MAX_BRANCHES} different texts or settings in one run")
        return key

    def _index_of(self, text: list[torch.Tensor]) -> int:
        """The number of `text` among the texts of the loop; compared by value where it is new."""
        for index, known in enumerate(self._texts):
            if len(known) == len(text) and all(map(same_memory, known, text)):
                return index
        for index, known in enumerate(self._texts):
            if self._reads.all_equal(known, text):
                return index
        self._texts.append(text)
        return len(self._texts) - 1
