"""What a diffusers transformer returns, and what stands in its place when it is not run."""

from __future__ import annotations

import copy
from typing import Any

import torch


class OutputForm:
    """The form of `out`: a tensor, a list of them, a tuple of one of these, or an output object
    with one of these as `sample`.

    Raises TypeError for any other: a second value (sound beside a film) may have a scheduler of
    its own, and cannot be left out.
    """

    def __init__(self, out: Any) -> None:
        self._tuple = isinstance(out, tuple)
        self._object = None if isinstance(out, (torch.Tensor, list, tuple)) else copy.copy(out)
        if self._tuple and len(out) != 1:
            raise TypeError(f"the transformer returns {len(out)} values, and one is known")
        inner = out[0] if self._tuple else out
        inner = inner if self._object is None else inner.sample
        self._list = isinstance(inner, list)
        parts = inner if self._list else [inner]
        for part in parts:
            if not isinstance(part, torch.Tensor):
                raise TypeError(f"the transformer returns {type(part).__name__}, not a tensor")
        self._parts = [(part.shape, part.dtype, part.device) for part in parts]
        if self._object is not None:
            self._object["sample"] = None

    def empty(self) -> Any:
        """Zeros in this form: nothing of them is used."""
        zeros = [torch.zeros(shape, dtype=kind, device=where) for shape, kind, where in self._parts]
        inner = zeros if self._list else zeros[0]
        if self._tuple:
            return (inner,)
        if self._object is None:
            return inner
        out = copy.copy(self._object)
        out["sample"] = inner
        return out
