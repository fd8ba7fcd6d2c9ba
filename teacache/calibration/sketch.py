"""Sketches: a few numbers for a large tensor, which preserve inner products."""

from __future__ import annotations

import torch

SIZE = 16_384
"""Numbers in a sketch: norms and differences come out within about sqrt(2 / SIZE), 1.1 %."""


class Sketcher:
    """Linear sketches of float32 tensors: every entry with a random sign, folded to `SIZE` sums.

    As a sketch is linear and the signs are independent, the inner product of two sketches is that
    of the tensors on average (a count sketch: Charikar, Chen, Farach-Colton, "Finding frequent
    items in data streams", 2002). A tensor of at most `SIZE` entries keeps all of them, so that
    its inner products are exact. The signs depend on the number of entries alone.
    """

    def __init__(self) -> None:
        self._signs: dict[int, torch.Tensor] = {}

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sketch of `tensor`, [SIZE] or shorter, float32 on the CPU."""
        flat = tensor.detach().flatten().float()
        if flat.numel() <= SIZE:
            return flat.cpu()
        signs = self._signs_for(flat.numel())
        total = torch.zeros(SIZE, device=flat.device)
        for start in range(0, flat.numel(), SIZE):
            part = flat[start : start + SIZE]
            sign = signs[start : start + SIZE].to(flat.device)
            total[: part.numel()] += part * sign
        return total.cpu()

    def _signs_for(self, count: int) -> torch.Tensor:
        """[count] of +1 and -1 as bytes."""
        if count not in self._signs:
            generator = torch.Generator().manual_seed(count)
            self._signs[count] = (
                torch.randint(0, 2, (count,), generator=generator, dtype=torch.int8) * 2 - 1
            )
        return self._signs[count]


def gram(sketches: list[torch.Tensor]) -> torch.Tensor:
    """Inner products of all pairs, [n, n], float64."""
    table = torch.stack(sketches).double()
    return table @ table.T
