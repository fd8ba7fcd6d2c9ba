"""The streams of tokens that flow through a transformer's blocks, and its block lists, as data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch


class Role(Enum):
    """What a stream of tokens carries. Joined streams name their parts in order."""

    IMAGE = "image"
    TEXT = "text"
    TEXT_IMAGE = "text+image"
    IMAGE_TEXT = "image+text"


class FamilyMismatch(Exception):
    """The family's entry does not hold for the model at hand; the cause is chained."""

    def __str__(self) -> str:
        return f"{type(self.__cause__).__name__}: {self.__cause__}"


@contextmanager
def reading_model() -> Iterator[None]:
    """Turns errors of reading a model's inside into `FamilyMismatch`."""
    try:
        yield
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise FamilyMismatch from error


@dataclass(frozen=True)
class Stream:
    """Where a block takes a stream of tokens.

    Args:
        role: what it carries.
        position, name: of the block's parameter.
        batch_dim: dimension of the batch; None where there is none (a batch of one).
        is_tuple: the parameter is a tuple of tensors, handled as one stream.
        further: position and name of the parameters whose tensors belong to the stream too, such as
            the sound of a film; a block returns them in this order, and one may be None.
        tokens_before: a block's arguments -> how many tokens of a joined stream come before the
            image; where it is given, the first block's stream is joined as well.
        part_sizes: a block's arguments -> tokens of the parts that follow each other in the stream,
            such as a film and its sound, where one tensor holds several.
    """

    role: Role
    position: int
    name: str
    batch_dim: int | None = 0
    is_tuple: bool = False
    further: tuple[tuple[int, str], ...] = ()
    tokens_before: Callable[[BlockArguments], int] | None = None
    part_sizes: Callable[[BlockArguments], tuple[int, ...]] | None = None

    @property
    def has_parts(self) -> bool:
        """Whether the stream is several tensors, packed one behind the other."""
        return self.is_tuple or bool(self.further)

    def pack(self, value: Any) -> torch.Tensor:
        """`value` as one tensor, the batch first."""
        if self.has_parts:
            return torch.cat([part.flatten(1) for part in value if part is not None], dim=1)
        packed: torch.Tensor = (
            value.unsqueeze(0) if self.batch_dim is None else value.movedim(self.batch_dim, 0)
        )
        return packed

    def unpack(self, packed: torch.Tensor, like: Any) -> Any:
        """The inverse of `pack`, in the form of `like`."""
        if self.has_parts:
            flat = iter(torch.split(packed, list(part_sizes(like)), dim=1))
            return tuple(None if old is None else next(flat).reshape(old.shape) for old in like)
        return packed.squeeze(0) if self.batch_dim is None else packed.movedim(0, self.batch_dim)


class BlockArguments:
    """The arguments of one call of a block, looked up by (position, name).

    Args:
        args, kwargs: as the block is called.
        image: the stream that carries the image, where it is known.
    """

    def __init__(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], image: Stream | None = None
    ) -> None:
        self.args = args
        self.kwargs = kwargs
        self._image = image

    def __getitem__(self, key: tuple[int, str]) -> Any:
        position, name = key
        return self.kwargs[name] if name in self.kwargs else self.args[position]

    def stream(self, stream: Stream) -> Any:
        value = self[stream.position, stream.name]
        return (value, *(self[key] for key in stream.further)) if stream.further else value

    def image_parts(self) -> tuple[int, ...]:
        """Sizes in dimension 1 of the parts that the packed image stream has; empty for one."""
        if self._image is None:
            return ()
        if self._image.has_parts:
            return part_sizes(self.stream(self._image))
        return () if self._image.part_sizes is None else self._image.part_sizes(self)


def part_sizes(parts: Sequence[torch.Tensor | None]) -> tuple[int, ...]:
    """Elements per row of the tensors among `parts`."""
    return tuple(part[0].numel() for part in parts if part is not None)


@dataclass(frozen=True)
class BlockList:
    """One list of blocks in the stack.

    Args:
        path: dotted name of the list in the transformer.
        inputs: the streams that a block takes.
        outputs: the roles that it returns, in order; a single one bare, several as a tuple.
        verify_outputs: the outputs are only assumed: each block's output is checked to be one
            tensor in the shape of its input before anything is skipped.
        method: name of the blocks' method that the model calls for the image.
        beside: a block's arguments -> whether that call is none of the image, but one of its own
            within the same call of the model, such as one that fills a cache of attention keys. It
            is made on a skip as well.
        also_returned: what a block takes and returns beside the streams, after them in its outputs;
            a skip passes it through.
    """

    path: str
    inputs: tuple[Stream, ...]
    outputs: tuple[Role, ...]
    verify_outputs: bool = False
    method: str = "forward"
    beside: Callable[[BlockArguments], bool] | None = None
    also_returned: tuple[Stream, ...] = ()

    def image_stream(self) -> Stream:
        return next(stream for stream in self.inputs if stream.role is not Role.TEXT)

    def returned_streams(self) -> tuple[Stream, ...]:
        """What a block returns of its inputs, in the order of its outputs."""
        by_role = {stream.role: stream for stream in self.inputs}
        return (*(by_role[role] for role in self.outputs), *self.also_returned)


class SkippedOutput(Enum):
    """What a side block returns when it is skipped.

    ZERO: nothing to add, in the shape of its first argument. ZERO_AND_STREAM: nothing to add, and
    its own stream, which is its first argument.
    """

    ZERO = "zero"
    ZERO_AND_STREAM = "zero and stream"


@dataclass(frozen=True)
class SideBlockList:
    """Blocks beside the stack whose output is only added to it; skipped together with it.

    Args:
        path: as in `BlockList`; a model without that list has none of them.
        always_run: transformer -> names of the blocks that run on a skip all the same, because
            their output is added after the stack's last block, where the residual lacks it.
        stream: name of a block's first parameter.
        skipped_output: what a skipped block returns.
    """

    path: str
    always_run: Callable[[Any], Collection[str]]
    stream: str
    skipped_output: SkippedOutput


def image_part(tensor: torch.Tensor, role: Role, tokens: int) -> torch.Tensor:
    """The image's `tokens` of a stream of `role`, [rows, tokens, width]."""
    if role is Role.TEXT_IMAGE:
        return tensor[:, -tokens:]
    if role is Role.IMAGE_TEXT:
        return tensor[:, :tokens]
    return tensor


def with_image(joined: torch.Tensor, role: Role, image: torch.Tensor) -> torch.Tensor:
    """A stream of `role` with its image tokens replaced by `image`."""
    tokens = image.shape[1]
    if role is Role.TEXT_IMAGE:
        return torch.cat((joined[:, :-tokens], image), dim=1)
    if role is Role.IMAGE_TEXT:
        return torch.cat((image, joined[:, tokens:]), dim=1)
    return image
