"""The structure of a diffusers denoiser's output, and zeros of the same structure."""

from __future__ import annotations

import copy
from typing import Any

import torch
from diffusers.utils import BaseOutput


class OutputStructure:
    """The structure of an output: a tensor, a list of tensors, a tuple of one of these, or an
    output object with one of these as its only field.

    Args:
        out: What a denoiser returned.

    Raises:
        TypeError: The output has another structure. Several values are refused because the others
            (such as the audio of a video model) may have a scheduler of their own, which zeros
            would reach.
    """

    def __init__(self, out: Any) -> None:
        self._tuple = isinstance(out, tuple)
        self._object = copy.copy(out) if isinstance(out, BaseOutput) else None
        fields = list(out) if self._object is not None else []
        count = len(out) if self._tuple else len(fields) or 1
        if count != 1:
            raise TypeError(f"the model returns {count} values, and one is known")
        inner = out[fields[0]] if fields else out[0] if self._tuple else out
        self._field = fields[0] if fields else ""
        self._list = isinstance(inner, list)
        parts = inner if self._list else [inner]
        for part in parts:
            if not isinstance(part, torch.Tensor):
                raise TypeError(f"the model returns {type(part).__name__}, not a tensor")
        self._parts = [(part.shape, part.dtype, part.device) for part in parts]
        if self._object is not None:
            self._object[self._field] = None

    def zeros(self) -> Any:
        """An output of this structure whose tensors are zeros of the same shapes."""
        tensors = [
            torch.zeros(shape, dtype=dtype, device=device) for shape, dtype, device in self._parts
        ]
        inner = tensors if self._list else tensors[0]
        if self._tuple:
            return (inner,)
        if self._object is None:
            return inner
        out = copy.copy(self._object)
        out[self._field] = inner
        return out
