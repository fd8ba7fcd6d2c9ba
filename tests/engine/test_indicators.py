"""What the profile's indicator reads: timesteps, and the input of the stack."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from teacache.engine.device import DeviceReader
from teacache.engine.indicators import (
    StackInputReader,
    TimestepChanges,
)
from teacache.engine.strategy import SamplerTraits
from teacache.families.comfyui.image import SD3
from teacache.families.streams import BlockArguments, FamilyMismatch, Role, Stream

EULER = SamplerTraits("euler", euler=True, one_eval_per_step=True)


# --- the timestep embedding ----------------------------------------------------------------------


class Embedding:
    """An embedding whose relative change is that of the level; notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[list[float]] = []

    def __call__(self, levels: list[float]) -> torch.Tensor:
        self.asked.append(levels)
        return torch.tensor(levels)[:, None] * torch.tensor([[1.0, -2.0]])


def test_changes_between_consecutive_levels_are_known_at_once() -> None:
    embedding = Embedding()
    changes = TimestepChanges(embedding, [1.0, 0.8, 0.8, 0.4], DeviceReader())
    assert embedding.asked == [[1.0, 0.8, 0.4]]
    assert changes.between(1.0, 0.8) == pytest.approx(0.2)
    assert changes.between(0.8, 0.4) == pytest.approx(0.5)
    assert changes.between(0.4, 0.4) == 0.0
    assert len(embedding.asked) == 1


def test_two_levels_are_a_schedule_too() -> None:
    embedding = Embedding()
    assert TimestepChanges(embedding, [1.0, 0.5], DeviceReader()).between(1.0, 0.5) == 0.5
    assert embedding.asked == [[1.0, 0.5]]


def test_other_changes_are_computed_when_they_are_asked_for_and_kept() -> None:
    embedding = Embedding()
    changes = TimestepChanges(embedding, [1.0], DeviceReader())
    assert embedding.asked == []
    for _ in range(2):
        assert changes.between(1.0, 0.4) == pytest.approx(0.6)
        assert changes.between(0.4, 1.0) == pytest.approx(1.5)
    assert embedding.asked == [[1.0, 0.4], [0.4, 1.0]]


# --- the input of the stack ----------------------------------------------------------------------

IMAGE = torch.arange(24.0).reshape(1, 8, 3)


def reading(kind: str, read: Any = None) -> tuple[Any, torch.Tensor]:
    """What a reader makes of `IMAGE`, and the image as it is afterwards."""
    family = replace(SD3, modulated_input=read)
    image = IMAGE.clone()
    arguments = BlockArguments((image,), {}, Stream(Role.IMAGE, 0, "x"))
    reader = StackInputReader(kind, family)
    return reader(torch.nn.Identity(), arguments, image), image


def test_a_timestep_indicator_reads_nothing() -> None:
    assert reading("timestep")[0] is None


def test_the_input_itself_is_copied() -> None:
    read, image = reading("stack_input")
    assert torch.equal(read, IMAGE)
    image.zero_()
    assert torch.equal(read, IMAGE), "blocks may write into their input"


def first_argument(block: Any, arguments: BlockArguments) -> torch.Tensor:
    return 2 * arguments[0, "x"]


def test_the_modulated_input_is_what_the_familys_function_reads() -> None:
    assert torch.equal(reading("modulated_input", first_argument)[0], 2 * IMAGE)


def test_a_block_that_is_not_what_the_family_expects_is_a_mismatch() -> None:
    def failing(block: Any, arguments: BlockArguments) -> torch.Tensor:
        return block.norm1

    with pytest.raises(FamilyMismatch, match="norm1"):
        reading("modulated_input", failing)
