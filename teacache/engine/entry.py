"""What the indicator `profile` reads at the entry of the block stack."""

from __future__ import annotations

import torch
from torch import nn

from ..families.registry import Family
from ..families.streams import BlockArguments, reading
from .indicators import TIMESTEP_READINGS


class EntryReader:
    """Reads for one run what a profile's fit was made of.

    kind: `modulated_input`, `stack_input`, or one of `TIMESTEP_READINGS`, which read nothing here.
    stride: only every so many-th token is read. Where the family's reader turns out to treat each
    token by itself, the others are not even computed.
    """

    def __init__(self, kind: str, family: Family, stride: int) -> None:
        self._kind = kind
        self._read = family.modulated_input
        self._stride = stride
        self._by_token: bool | None = None

    @reading()
    def __call__(
        self, block: nn.Module, arguments: BlockArguments, image: torch.Tensor
    ) -> torch.Tensor | None:
        """The reading [rows, tokens, width] at `image`, the batch first, before `block` runs on
        `arguments`; None where it follows from the noise level alone.

        Raises AdapterFailed where the block is not what the family's reader expects.
        """
        if self._kind in TIMESTEP_READINGS:
            return None
        stride = self._stride
        if self._kind == "stack_input":
            return image[:, ::stride].clone()
        assert self._read is not None
        if stride == 1:
            return self._read(block, arguments)
        if self._by_token:
            thinned = arguments.thinned(stride)
            assert thinned is not None
            return self._read(block, thinned)
        read = self._read(block, arguments)[:, ::stride].clone()
        if self._by_token is None:
            self._by_token = self._treats_tokens_alone(block, arguments, read)
        return read

    def _treats_tokens_alone(
        self, block: nn.Module, arguments: BlockArguments, expected: torch.Tensor
    ) -> bool:
        """Whether reading some tokens gives what reading all of them gives for those."""
        thinned = arguments.thinned(self._stride)
        if thinned is None:
            return False
        assert self._read is not None
        try:
            found = self._read(block, thinned)
        except (RuntimeError, ValueError):  # a modulation for each token does not fit
            return False
        return found.shape == expected.shape and torch.allclose(found, expected, 1e-2, 1e-3)
