"""Digests of what identifies a run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from teacache.digest import digest

CONDITIONING = [[torch.arange(6.0), {"pooled_output": torch.ones(2), "guidance": 3.5}]]


@pytest.mark.parametrize(
    "other",
    [
        [[torch.arange(6.0).reshape(2, 3), CONDITIONING[0][1]]],
        [[torch.arange(6.0) + 1, CONDITIONING[0][1]]],
        [[torch.arange(6.0), {**CONDITIONING[0][1], "guidance": 4.0}]],
        [[torch.arange(6.0), {"pooled_output": torch.zeros(2), "guidance": 3.5}]],
    ],
)
def test_every_part_counts(other: Any) -> None:
    assert digest(CONDITIONING) != digest(other)


def test_order_of_keys_and_precision_do_not_count() -> None:
    turned = dict(reversed(CONDITIONING[0][1].items()))
    assert digest(CONDITIONING) == digest([[torch.arange(6.0).to(torch.bfloat16), turned]])


def test_the_first_values_of_each_tensor() -> None:
    one, other = torch.zeros(20), torch.zeros(20)
    other[10] = 1
    assert digest(one) != digest(other) and digest(one, 10) == digest(other, 10)
    assert digest(one, 11) != digest(other, 11)


def test_pictures() -> None:
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    assert digest(red) == digest(red.copy()) != digest(blue)
