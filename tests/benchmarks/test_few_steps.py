"""Figures of skipped steps beside fewer steps, and of two samplers on one trajectory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

from benchmarks import few_steps, two_experts
from benchmarks.drawing import Drawing
from benchmarks.few_steps import Way


def like(psnr: float) -> dict[str, Any]:
    return {"psnr": psnr, "ssim": psnr / 100}


def test_pairs_in_which_nothing_was_skipped_are_not_compared() -> None:
    way = Way("a", [7, 7, 8], [like(50), like(30), like(100)], [like(40), like(40), like(100)])
    assert way.nearer == (1, 2)
    assert few_steps.row(way) == [
        "a",
        "7.3",
        "60.0 / 30.0, 0.6000",
        "60.0 / 40.0, 0.6000",
        "1 of 2",
    ]
    none = Way("b", [8], [like(100)], [like(100)])
    assert few_steps.row(none)[-1] == "nothing skipped"
    assert len(few_steps.table([way, none]).splitlines()) == 4


def test_every_step_between_the_first_and_the_last_is_left_out_alone() -> None:
    names = [name for name, _ in few_steps.ways(6)]
    assert names == ["default", "`fast`", *(f"step {step} alone" for step in (2, 3, 4, 5))]


def test_a_cell_of_two_samplers() -> None:
    frames = torch.zeros(1, 16, 16, 3)
    pairs = [
        (Drawing(8, frames), Drawing(20, frames)),
        (Drawing(9, frames + 0.1), Drawing(20, frames)),
    ]
    assert two_experts.cell(pairs) == "8.5: 60.0 / 20.0"
