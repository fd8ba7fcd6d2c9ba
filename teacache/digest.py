"""Digests of tensors, pictures, texts and numbers: the same on every device and machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from PIL import Image

HEX_DIGITS = 12
WEIGHT_VALUES = 8
"""Values of each tensor that tell one set of weights from another."""


def digest(value: Any, first: int | None = None) -> str:
    """12 hex digits of everything that `parts` yields of `value`."""
    return _hexadecimal(parts(value, first))


def digest_of_weights(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """12 hex digits of names, shapes and first values. Saved profiles are found by them."""
    return _hexadecimal(
        part
        for name, tensor in tensors
        for part in (f"{name} ".encode(), *parts(tensor, WEIGHT_VALUES))
    )


def digest_of_patches(patches: Mapping[Any, Sequence[Any]]) -> str:
    """12 hex digits of weight patches; empty for none. Saved profiles are found by them.

    Args:
        patches: by the name of the weight, as ComfyUI's `ModelPatcher.patches`. Dictionaries
            within a patch, such as padding options, are left out.
    """
    if not patches:
        return ""
    return _hexadecimal(
        part
        for name in sorted(patches, key=str)
        for part in (str(name).encode(), *parts(patches[name], WEIGHT_VALUES, mappings=False))
    )


def parts(value: Any, first: int | None = None, mappings: bool = True) -> Iterator[bytes]:
    """What identifies `value`, recursively: of a tensor its shape and values as float32.

    Args:
        value: tensors, PIL images, texts, numbers, ComfyUI's weight adapters (LoRA, LoHa, …), and
            lists, tuples and mappings of these; anything else yields nothing.
        first: take only so many values of each tensor, in memory order; None takes all.
        mappings: whether mappings are taken, by sorted key.
    """
    if isinstance(value, torch.Tensor):
        yield str(tuple(value.shape)).encode()
        yield value.detach().flatten()[:first].float().cpu().numpy().tobytes()
    elif isinstance(value, Image.Image):
        yield value.tobytes()
    elif isinstance(value, (str, bool, int, float)):
        yield repr(value).encode()
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from parts(item, first, mappings)
    elif isinstance(value, Mapping):
        for name in sorted(value, key=str) if mappings else ():
            yield str(name).encode()
            yield from parts(value[name], first, mappings)
    elif hasattr(value, "weights"):
        yield type(value).__name__.encode()
        yield from parts(value.weights, first, mappings)


def _hexadecimal(values: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for value in values:
        found.update(value)
    return found.hexdigest()[:HEX_DIGITS]
