"""The change of a value is that of its most changed part, and only of what counts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from teacache.engine.regions import WHOLE, LatentLayout, Regions, relative_change

SHAPES = ((1, 4, 2, 6, 6), (1, 3, 5))
"""A film of 288 values and a sound of 15."""


def packed(film: float, sound: float) -> torch.Tensor:
    """[1, 1, 303]: constant values of both."""
    sizes = [math.prod(shape) for shape in SHAPES]
    parts = [torch.full((size,), value) for size, value in zip(sizes, (film, sound), strict=True)]
    return torch.cat(parts).reshape(1, 1, -1)


def test_the_part_that_changes_most_decides() -> None:
    layout = LatentLayout((1, 1, 303), SHAPES)
    change = relative_change(packed(1.01, 1.5), packed(1.0, 1.0), layout.regions)
    assert change.tolist() == pytest.approx([0.5])
    one_sum = relative_change(packed(1.01, 1.5), packed(1.0, 1.0))
    assert one_sum.tolist() == pytest.approx([(2.88 + 7.5) / 303])


def test_only_what_the_mask_lets_change_counts() -> None:
    mask = torch.zeros(1, 4, 6, 6)
    mask[..., :2, :3] = 1
    before, now = torch.ones(1, 4, 6, 6), torch.full((1, 4, 6, 6), 3.0)
    now[..., :2, :3] = 1.1
    layout = LatentLayout(before.shape, (), mask)
    assert relative_change(now, before, layout.regions).item() == pytest.approx(0.1)
    assert relative_change(now, before).item() == pytest.approx((30 * 2 + 6 * 0.1) / 36)


def test_rows_with_masks_of_their_own_stay_apart_and_an_empty_mask_counts_in_full() -> None:
    mask = torch.zeros(3, 1, 2, 2)
    mask[0, :, 0, 0] = 1
    mask[1, :, 1, 1] = 0.5
    before = torch.ones(3, 1, 2, 2)
    now = before.clone()
    now[:, :, 0, 0] = 2.0
    change = relative_change(now, before, LatentLayout(before.shape, (), mask).regions)
    assert change.tolist() == pytest.approx([1.0, 0.0, 0.25])


def test_a_mask_of_one_part_leaves_the_other_part_to_decide() -> None:
    """The film is kept, only its sound is sampled."""
    mask = packed(0.0, 1.0)
    layout = LatentLayout(mask.shape, SHAPES, mask)
    change = relative_change(packed(9.0, 1.5), packed(1.0, 1.0), layout.regions)
    assert change.item() == pytest.approx(0.5)


def test_values_that_are_no_numbers_are_not_hidden() -> None:
    now = packed(1.0, 1.0)
    now[0, 0, -1] = math.nan
    change = relative_change(now, packed(1.0, 1.0), LatentLayout(now.shape, SHAPES).regions)
    assert math.isnan(change.item())


@given(
    size=st.sampled_from((1, 2, 4)),
    frames=st.sampled_from((None, 1, 3)),
    height=st.integers(3, 9),
    width=st.integers(3, 9),
    data=st.data(),
)
def test_a_token_counts_where_one_of_its_elements_does(
    size: int, frames: int | None, height: int, width: int, data: st.DataObject
) -> None:
    """Patches in rows, as transformers make tokens of a latent; the last ones may be cut."""
    grid = (height,) if frames is None else (frames, height)
    mask = torch.zeros(1, 2, *grid, width)
    across, down = -(-width // size), -(-height // size)
    count = (frames or 1) * across * down
    smaller = {(frames or 1) * -(-height // other) * -(-width // other) for other in range(1, size)}
    y = data.draw(st.integers(0, height - 1))
    x = data.draw(st.integers(0, width - 1))
    f = data.draw(st.integers(0, (frames or 1) - 1))
    mask[(0, slice(None), *(() if frames is None else (f,)), y, x)] = 0.75
    layout = LatentLayout(mask.shape, (), mask)
    regions = layout.token_regions(torch.ones(1, count, 8), ())
    if count in smaller:
        return  # told apart from a smaller patch by nothing but the count
    assert regions.weights is not None
    expected = torch.zeros(count)
    expected[(f * down + y // size) * across + x // size] = 0.75
    assert torch.equal(regions.weights.flatten(), expected)
    assert regions.fits(torch.ones(2, count, 8))


def test_tokens_that_are_no_patches_of_the_latent_count_alike() -> None:
    mask = torch.zeros(1, 4, 6, 6)
    mask[..., 0, 0] = 1
    layout = LatentLayout(mask.shape, (), mask)
    assert layout.token_regions(torch.ones(1, 37, 8), ()) == WHOLE
    assert LatentLayout().token_regions(torch.ones(1, 36, 8), ()) == WHOLE


def test_parts_of_a_stream_of_tokens() -> None:
    before, now = torch.ones(1, 10, 4), torch.ones(1, 10, 4)
    now[:, 7:] = 2.0
    regions = LatentLayout().token_regions(now, (7, 3))
    assert regions.sizes == (28, 12)
    assert relative_change(now, before, regions).item() == 1.0


@pytest.mark.parametrize(
    ("shape", "packed_shapes", "mask"),
    [
        ((1, 1, 300), SHAPES, None),
        ((1, 4, 6, 6), ((1, 4, 6, 6),), torch.ones(1, 4, 3, 3)),
        ((1, 4, 6, 6), (), torch.ones(1, 6, 6)),
    ],
)
def test_what_does_not_fit_the_latent_is_left_out(
    shape: tuple[int, ...], packed_shapes: tuple[tuple[int, ...], ...], mask: torch.Tensor | None
) -> None:
    layout = LatentLayout(shape, packed_shapes, mask)
    assert layout.regions == WHOLE
    latent = torch.randn(shape)
    changed = relative_change(latent + 1, latent, Regions(sizes=(1, 2)))
    assert torch.equal(changed, relative_change(latent + 1, latent))
