"""Which parts of a value are compared apart, and how much each of its elements counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import max_pool2d

PATCH_SIZES = range(1, 9)
"""Sizes of patches, in elements of the latent, that transformers make tokens of."""


@dataclass(frozen=True)
class Regions:
    """How the change of a value is measured where one sum over all of it would hide something.

    A latent may pack a film and its sound, which is less than a hundredth of its elements, and a
    mask may leave only a small part of a picture to be sampled.

    Args:
        sizes: elements per row of the parts that are packed one behind the other; empty for one
            part. The part that changes most decides.
        weights: importance of each element, 0 … 1, broadcast to the value; None where all count
            alike. No row of it is zero throughout.
    """

    sizes: tuple[int, ...] = ()
    weights: torch.Tensor | None = None

    def fits(self, value: torch.Tensor) -> bool:
        """Whether `value`, [rows, ...], is laid out as these regions say."""
        if self.sizes and sum(self.sizes) != value[0].numel():
            return False
        return self.weights is None or (
            self.weights.ndim == value.ndim
            and all(w in (1, v) for w, v in zip(self.weights.shape, value.shape, strict=True))
        )


WHOLE = Regions()


class LatentLayout:
    """How a run's latent is laid out, and which of it counts.

    Args:
        shape: of the latent, the rows first; empty where it is not known.
        packed: shapes of the latents that it packs in [rows, 1, elements], each with the rows
            first; one or none for a latent that is not packed.
        mask: 1 where the latent is sampled, 0 where it is replaced afterwards, in the latent's
            shape. One that does not fit it is left out.
    """

    def __init__(
        self,
        shape: Sequence[int] = (),
        packed: Sequence[Sequence[int]] = (),
        mask: torch.Tensor | None = None,
    ) -> None:
        self._shape = tuple(shape)
        sizes = tuple(math.prod(each[1:]) for each in packed) if len(packed) > 1 else ()
        if sum(sizes) != math.prod(shape[1:]):
            sizes = ()
        fits = mask is not None and mask.shape[1:] == self._shape[1:]
        self._mask = _weights(mask) if mask is not None and fits else None
        self._token_weights: dict[int, torch.Tensor | None] = {}
        self.regions = Regions(sizes, self._mask)
        """Of the latent, and of predictions in its shape."""

    def token_regions(self, tokens: torch.Tensor, parts: Sequence[int]) -> Regions:
        """The regions of what a block stack makes of the latent.

        Args:
            tokens: [rows, tokens, ...].
            parts: how many of the tokens the packed parts have; empty for one part.
        """
        if parts:
            width = tokens[0, :1].numel()
            return Regions(tuple(part * width for part in parts))
        count = tokens.shape[1]
        if count not in self._token_weights:
            self._token_weights[count] = self._weights_of_tokens(count)
        weights = self._token_weights[count]
        return WHOLE if weights is None else Regions(weights=weights)

    def _weights_of_tokens(self, count: int) -> torch.Tensor | None:
        """The mask as [1 or rows, count, 1]: a token counts as its most important element does.

        None without a mask, and where `count` is not the number of square patches of the latent.
        """
        if self._mask is None or self.regions.sizes or len(self._shape) not in (4, 5):
            return None
        mask = self._mask.amax(dim=1)  # the channels
        frames = mask if mask.ndim == 4 else mask.unsqueeze(1)  # [rows, frames, height, width]
        height, width = frames.shape[2:]
        for size in PATCH_SIZES:
            if frames.shape[1] * -(-height // size) * -(-width // size) == count:
                return max_pool2d(frames, size, ceil_mode=True).flatten(1).unsqueeze(2)
        return None


def _weights(mask: torch.Tensor) -> torch.Tensor:
    """`mask` as weights; a row that is masked throughout counts in full."""
    weights = mask.float().clamp(0, 1)
    counts = (weights > 0).flatten(1).any(dim=1).reshape(-1, *[1] * (mask.ndim - 1))
    return torch.where(counts, weights, 1.0)


def relative_change(
    now: torch.Tensor, before: torch.Tensor, regions: Regions = WHOLE
) -> torch.Tensor:
    """Relative L1 change sum|now - before| / sum|before| of each row, of its largest part.

    Args:
        now, before: [rows, ...].
        regions: as they are laid out; where they do not fit, one sum is taken over everything.

    Returns:
        [rows], float32.
    """
    difference, size = (now - before).abs_(), before.abs()
    if (regions.sizes or regions.weights is not None) and regions.fits(now):
        return _largest_part(difference, size, regions)
    return _total(difference.flatten(1)) / _total(size.flatten(1))


def _largest_part(difference: torch.Tensor, size: torch.Tensor, regions: Regions) -> torch.Tensor:
    """The relative change of each row's part that changes most; 0 where nothing that counts does.

    Args:
        difference, size: absolute values, [rows, ...]; overwritten.
    """
    if regions.weights is not None:
        weights = regions.weights.to(difference.device, difference.dtype)
        difference, size = difference.mul_(weights), size.mul_(weights)
    difference, size = difference.flatten(1), size.flatten(1)
    sizes = list(regions.sizes) or [difference.shape[1]]
    changes = []
    for missed, whole in zip(
        torch.split(difference, sizes, dim=1), torch.split(size, sizes, dim=1), strict=True
    ):
        change = _total(missed)
        changes.append(torch.where(change == 0, 0.0, change / _total(whole)))
    return torch.stack(changes).amax(dim=0)


def _total(values: torch.Tensor) -> torch.Tensor:
    return values.sum(dim=1, dtype=torch.float32)
