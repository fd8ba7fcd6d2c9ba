"""The second test model's data: films whose digit goes where the caption says."""

from __future__ import annotations

import pytest
import torch

from training.digits import (
    CAPTIONS,
    DIGIT,
    FRAMES,
    LATENT,
    SIZE,
    WORDS,
    film,
    numbers,
    to_film,
    to_latent,
)

SQUARE = torch.ones(1, DIGIT, DIGIT)


def centres(films: torch.Tensor) -> torch.Tensor:
    """Centre of what is bright, (x, y) in pixels for each frame."""
    light = (films[0] + 1) / 2
    places = torch.arange(SIZE) + 0.5
    weight = light.sum((1, 2))
    return torch.stack(
        ((light.sum(1) * places).sum(1) / weight, (light.sum(2) * places).sum(1) / weight), dim=1
    )


def test_a_digit_starts_at_its_place_and_moves_by_its_velocity() -> None:
    films = film(SQUARE, torch.tensor([[2.0, 3.0]]), torch.tensor([[1.5, 0.5]]))
    expected = torch.tensor([[10.0 + 1.5 * t, 11.0 + 0.5 * t] for t in range(FRAMES)])
    torch.testing.assert_close(centres(films), expected, atol=0.05, rtol=0)


def test_a_digit_turns_back_at_the_border() -> None:
    films = film(SQUARE, torch.tensor([[14.0, 8.0]]), torch.tensor([[2.0, 0.0]]))
    across = [22.0, 24.0, 22.0, 20.0, 18.0, 16.0]
    assert centres(films)[:, 0].tolist() == pytest.approx(across, abs=0.05)


def test_latents_are_the_film_itself() -> None:
    films = torch.rand(2, FRAMES, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = to_latent(films)
    assert latents.shape == (2, *LATENT)
    torch.testing.assert_close(to_film(latents), films, atol=1e-5, rtol=0)


def test_captions_are_numbers_of_known_words() -> None:
    assert len(set(CAPTIONS)) == len(CAPTIONS) == 160
    assert [WORDS[number] for number in numbers("3 up-left fast")] == ["3", "up-left", "fast"]
    assert numbers("") == [0, 0, 0]
    for wrong in ("3", "3 sideways fast", "12 up slow"):
        with pytest.raises(ValueError, match="a caption is a digit, a direction and a speed"):
            numbers(wrong)


def test_training_batches_follow_from_the_step_alone() -> None:
    pytest.importorskip("sklearn")
    from training.digits import Films
    from training.flow import stratified_times

    films = Films(8, 0, stratified_times)
    first, again, other = films(3), films(3), films(4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    latents, _, times, ids = first
    assert latents.shape == (8, *LATENT) and ids.shape == (8, 3)
    assert ((times > 0) & (times < 1)).all()
