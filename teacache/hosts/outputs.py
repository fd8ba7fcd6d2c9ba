"""How a diffusers transformer returns its prediction: a tensor, a tuple, or an output object."""

from __future__ import annotations

import copy
from typing import Any

import torch


class OutputForm:
    """The form of `out`, without its values.

    Known forms: a tensor; a list of tensors of one shape; a tuple with one of these and nothing
    else; an output object with one of these as `sample`. Raises TypeError for any other.
    """

    def __init__(self, out: Any) -> None:
        self._tuple = isinstance(out, tuple)
        self._object = None if isinstance(out, (torch.Tensor, list, tuple)) else copy.copy(out)
        if self._tuple and len(out) != 1:
            raise TypeError(f"the transformer returns {len(out)} values, and one is known")
        inner = self._inner(out)
        self._list = isinstance(inner, list)
        for part in inner if self._list else [inner]:
            if not isinstance(part, torch.Tensor):
                raise TypeError(f"the transformer returns {type(part).__name__}, not a tensor")
        if self._object is not None:
            self._object["sample"] = None

    def _inner(self, out: Any) -> Any:
        if self._tuple:
            return out[0]
        return out if self._object is None else out.sample

    def unwrap(self, out: Any) -> torch.Tensor:
        """The prediction in `out`; a list is stacked along a new first dimension."""
        inner = self._inner(out)
        value: torch.Tensor = torch.stack(inner) if self._list else inner
        return value

    def wrap(self, value: torch.Tensor) -> Any:
        """`value` in this form."""
        inner = list(value.unbind()) if self._list else value
        if self._tuple:
            return (inner,)
        if self._object is None:
            return inner
        out = copy.copy(self._object)
        out["sample"] = inner
        return out
