"""Which of the calls that are named alike a call is, by its inputs of the evaluation before.

Calls of one evaluation may equal each other in name, text and settings: guidance by a control image
against a blank one. Their order tells them apart as long as all of them are made. An input that
stays the same from evaluation to evaluation tells more: it shows a call that comes out of order,
and one whose input was exchanged. Pipelines pass the same tensors in every step, so that looking at
their identity is enough; only another tensor is compared by value.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from .branches import latent_name, tensors_in, timestep_name
from .reads import TensorReads, same_memory

STRIKES = 2
"""An input that changes so often in a row is one that changes with the steps."""


class Input(NamedTuple):
    """One tensor or number of a call's inputs.

    Args:
        version: how often the tensor's memory had been written to.
    """

    value: torch.Tensor | float
    version: int | None


class Place(NamedTuple):
    """Which of the equal calls a call is.

    Args:
        occurrence: its number among them, from 0.
        reordered: it is another one than its order tells.
        changed: one of its inputs was exchanged.
    """

    occurrence: int
    reordered: bool = False
    changed: bool = False


class EqualCalls:
    """The equal calls of one denoising loop.

    Args:
        reads: counts the comparisons.
    """

    def __init__(self, reads: TensorReads) -> None:
        self._reads = reads
        self._now: dict[Hashable, dict[int, dict[str, list[Input]]]] = {}
        self._before: dict[Hashable, dict[int, dict[str, list[Input]]]] = {}
        self._steady: set[tuple[Hashable, str]] = set()
        self._varying: set[tuple[Hashable, str]] = set()
        self._strikes: Counter[tuple[Hashable, int, str]] = Counter()

    def begin_evaluation(self) -> None:
        """What follows are the calls of another evaluation."""
        self._before, self._now = self._now, {}

    def place(self, alike: Hashable, arguments: Mapping[str, Any]) -> Place:
        """Which of the calls named `alike` this one is; the next evaluation is compared with it."""
        inputs = _constant_inputs(arguments)
        made = self._now.setdefault(alike, {})
        place = self._place(alike, inputs, made)
        made[place.occurrence] = inputs
        return place

    def _place(
        self, alike: Hashable, inputs: dict[str, list[Input]], made: Mapping[int, Any]
    ) -> Place:
        known = self._before.get(alike, {})
        order = [*known][len(made) :]
        unused = (n for n in itertools.count() if n not in made and n not in known)
        expected = order[0] if order and order[0] not in made else next(unused)
        differing = None
        if expected in known:
            differing = self._differing(alike, inputs, known[expected])
            if not differing:
                return Place(expected)
        for other in known.keys() - made.keys() - {expected}:
            if not self._differing(alike, inputs, known[other]):
                return Place(other, reordered=differing is not None)
        changed = differing is not None and self._exchanged(alike, expected, differing)
        return Place(expected, changed=changed)

    def _differing(
        self, alike: Hashable, one: dict[str, list[Input]], other: dict[str, list[Input]]
    ) -> list[str]:
        """Names of the inputs that two calls differ in, without those that always change."""
        differing = []
        for name in one.keys() | other.keys():
            if (alike, name) in self._varying:
                continue
            if not self._equal(one.get(name, []), other.get(name, [])):
                differing.append(name)
        if not differing:
            self._steady |= {(alike, name) for name in one}
            self._strikes = Counter({key: n for key, n in self._strikes.items() if key[0] != alike})
        return differing

    def _exchanged(self, alike: Hashable, occurrence: int, differing: list[str]) -> bool:
        """Whether one of the `differing` inputs had not changed so far."""
        exchanged = any((alike, name) in self._steady for name in differing)
        for name in differing:
            self._strikes[alike, occurrence, name] += 1
            steady = (alike, name) in self._steady
            if not steady or self._strikes[alike, occurrence, name] >= STRIKES:
                self._varying.add((alike, name))
        return exchanged

    def _equal(self, one: list[Input], other: list[Input]) -> bool:
        return len(one) == len(other) and all(map(self._same, one, other))

    def _same(self, one: Input, other: Input) -> bool:
        now, before = one.value, other.value
        if not isinstance(now, torch.Tensor) or not isinstance(before, torch.Tensor):
            return type(now) is type(before) and bool(now == before)
        if _layout(now) != _layout(before):
            return False
        if same_memory(now, before):
            return one.version == other.version
        return self._reads.equal(now, before)


def _layout(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _constant_inputs(arguments: Mapping[str, Any]) -> dict[str, list[Input]]:
    """The inputs that may stay the same: all tensors and numbers but the latent and timestep."""
    moving = (latent_name(arguments), timestep_name(arguments))
    return {
        name: [*map(_input, tensors_in(value)), *(Input(n, None) for n in _floats_in(value))]
        for name, value in arguments.items()
        if name not in moving
    }


def _input(tensor: torch.Tensor) -> Input:
    return Input(tensor, None if tensor.is_inference() else tensor._version)


def _floats_in(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _floats_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _floats_in(item)
