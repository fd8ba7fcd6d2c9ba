"""What flows through the blocks of a transformer, and which blocks there are, as data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
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


class AdapterFailed(Exception):
    """What the table says of a model does not hold for the model at hand; the cause is chained."""

    def __str__(self) -> str:
        return f"{type(self.__cause__).__name__}: {self.__cause__}"


@contextmanager
def reading() -> Iterator[None]:
    """Errors of reading a model's insides come out as `AdapterFailed`."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise AdapterFailed from error


@dataclass(frozen=True)
class Stream:
    """Where a block takes a stream: its role, position and parameter name.

    batch: the dimension along which the batch lies; None where there is none (a batch of one).
    parts: the stream is a tuple of tensors, handled as one.
    """

    role: Role
    position: int
    name: str
    batch: int | None = 0
    parts: bool = False

    def pack(self, value: Any) -> torch.Tensor:
        """`value` as one tensor, the batch first."""
        if self.parts:
            return torch.cat([part.flatten(1) for part in value], dim=1)
        packed: torch.Tensor = (
            value.unsqueeze(0) if self.batch is None else value.movedim(self.batch, 0)
        )
        return packed

    def unpack(self, packed: torch.Tensor, like: Any) -> Any:
        """`packed` in the form of `like`."""
        if self.parts:
            sizes = [part[0].numel() for part in like]
            flat = torch.split(packed, sizes, dim=1)
            return tuple(part.reshape(old.shape) for part, old in zip(flat, like, strict=True))
        return packed.squeeze(0) if self.batch is None else packed.movedim(0, self.batch)


class BlockArguments:
    """The arguments of one call of a block, by position or name. image: the stream that carries
    the image, where it is known.
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
        return self[stream.position, stream.name]

    def thinned(self, stride: int) -> BlockArguments | None:
        """The same with every `stride`-th of the image's tokens only; None where the stream is
        not [rows, tokens, width] of the image alone.
        """
        stream = self._image
        if stream is None or stream.role is not Role.IMAGE or stream.batch != 0 or stream.parts:
            return None
        tokens = self.stream(stream)
        if tokens.ndim != 3:
            return None
        some, args, kwargs = tokens[:, ::stride], list(self.args), dict(self.kwargs)
        if stream.name in kwargs:
            kwargs[stream.name] = some
        else:
            args[stream.position] = some
        return BlockArguments(tuple(args), kwargs)


@dataclass(frozen=True)
class BlockList:
    """One list of blocks in the stack.

    path: dotted name of the list in the transformer. takes: the streams a block is given.
    returns: the roles it returns, in order; a single one is returned bare, several as a tuple.
    checked: whether that a block returns its image stream, bare and in the same shape, is only
    supposed: each block's output is looked at before anything is skipped.
    """

    path: str
    takes: tuple[Stream, ...]
    returns: tuple[Role, ...]
    checked: bool = False

    def image_stream(self) -> Stream:
        return next(stream for stream in self.takes if stream.role is not Role.TEXT)

    def returned_streams(self) -> tuple[Stream, ...]:
        """Where what a block returns came in, in the order of `returns`."""
        by_role = {stream.role: stream for stream in self.takes}
        return tuple(by_role[role] for role in self.returns)


class Passed(Enum):
    """What a block beside the stack gives when it is passed over.

    ZERO: nothing to add, in the shape of its first argument. ZERO_AND_STREAM: nothing to add,
    and its own stream, which is its first argument.
    """

    ZERO = "zero"
    ZERO_AND_STREAM = "zero and stream"


@dataclass(frozen=True)
class SideList:
    """Blocks beside the stack whose output is only added to it, passed over on a skip.

    path: as in BlockList; a model without that list has none of them. runs: names of those which
    run all the same, because what they give is added after the last block of the stack, where
    the residual does not contain it. stream: name of their first parameter. gives: what a block
    gives instead of running.
    """

    path: str
    runs: Callable[[Any], Collection[str]]
    stream: str
    gives: Passed


def image_part(tensor: torch.Tensor, role: Role, tokens: int) -> torch.Tensor:
    """The image's `tokens` of a stream of `role`."""
    if role is Role.TEXT_IMAGE:
        return tensor[:, -tokens:]
    if role is Role.IMAGE_TEXT:
        return tensor[:, :tokens]
    return tensor


def with_image(joined: torch.Tensor, role: Role, image: torch.Tensor) -> torch.Tensor:
    """A stream of `role` with its image replaced by `image`."""
    tokens = image.shape[1]
    if role is Role.TEXT_IMAGE:
        return torch.cat((joined[:, :-tokens], image), dim=1)
    if role is Role.IMAGE_TEXT:
        return torch.cat((image, joined[:, tokens:]), dim=1)
    return image
