"""The UNet model's data and training: digits are where the caption says; noise is predicted."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("diffusers")

from training import grade_unet, train_unet, unet
from training.digits import DIGIT, SIZE, save_model
from training.train_unet import UNetTrainer
from training.unet import EMPTY, LATENT, LEVELS, PLACES


def drawn(
    bright: int, angle: float = 0.0, scale: float = 1.0, offset: tuple[float, float] = (0, 0)
) -> torch.Tensor:
    """[SIZE, SIZE] in [0, 1]: the upper half of the digit in one place is bright."""
    pictures = torch.zeros(1, PLACES, DIGIT, DIGIT)
    pictures[0, bright, : DIGIT // 2] = 1
    whole = torch.ones(1, PLACES)
    offsets = torch.tensor(offset).float().expand(1, PLACES, 2)
    return (unet.draw(pictures, angle * whole, scale * whole, offsets)[0, 0] + 1) / 2


def centre(picture: torch.Tensor) -> list[float]:
    """Of what is bright, (x, y) in pixels."""
    places = torch.arange(SIZE) + 0.5
    return [float((picture.sum(side) * places).sum() / picture.sum()) for side in (0, 1)]


@pytest.mark.parametrize(("place", "at"), enumerate([(8, 4), (24, 4), (8, 20), (24, 20)]), ids=str)
def test_digits_are_drawn_in_the_order_of_a_caption(place: int, at: tuple[float, float]) -> None:
    assert centre(drawn(place)) == pytest.approx(at, abs=0.05)


def test_a_digit_is_moved_turned_and_scaled() -> None:
    assert centre(drawn(0, offset=(3, 2))) == pytest.approx([11, 6], abs=0.05)
    small = drawn(3, scale=0.5)
    assert float(small.sum()) == pytest.approx(DIGIT * DIGIT / 2 / 4, rel=0.05)
    assert centre(small) == pytest.approx([24, 22], abs=0.1)
    quarter_turn = torch.pi / 2
    x, y = centre(drawn(3, angle=quarter_turn))
    assert abs(x - 24) == pytest.approx(4, abs=0.1) and y == pytest.approx(24, abs=0.1)


def test_latents_are_the_picture_itself() -> None:
    pictures = torch.rand(2, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = unet.to_latent(pictures)
    assert latents.shape == (2, *LATENT)
    torch.testing.assert_close(unet.to_picture(latents), pictures, atol=1e-5, rtol=0)


def test_captions_are_rows_of_places_and_digits() -> None:
    assert len(set(unet.CAPTIONS)) == 10_000 and unet.CAPTIONS[314] == "0 3 1 4"
    assert unet.numbers("0 3 1 4") == [0, 14, 23, 37]
    assert unet.numbers("") == [EMPTY, 11 + EMPTY, 22 + EMPTY, 33 + EMPTY]
    for wrong in ("3", "3 1 4 1 5", "3 1 4 x", "3 1 4 12"):
        with pytest.raises(ValueError, match="a caption is four digits"):
            unet.numbers(wrong)


def test_noise_levels_are_those_of_stable_diffusion_and_all_are_trained() -> None:
    shares = unet.signal_shares()
    assert len(shares) == LEVELS and bool((shares.diff() < 0).all())
    assert float(((1 - shares[-1]) / shares[-1]).sqrt()) == pytest.approx(14.6146, abs=1e-3)
    levels = unet.stratified_levels(10, torch.Generator().manual_seed(3))
    quantiles = 10 * (levels / LEVELS) ** 1.5
    assert sorted(quantiles.round().tolist()) == pytest.approx([*range(10)], abs=1)
    assert float(levels.float().mean()) == pytest.approx(LEVELS * 0.6, rel=0.05)
    assert levels.min() >= 0 and levels.max() < LEVELS


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> UNetTrainer:
    monkeypatch.setitem(unet.UNET, "block_out_channels", (32, 32, 32))
    torch.manual_seed(0)
    args = argparse.Namespace(device="cpu", compile=False, optimizer="muon", steps=40, decay=0.4)
    return UNetTrainer(args)


def test_the_unet_learns_the_noise(trainer: UNetTrainer) -> None:
    generator = torch.Generator().manual_seed(1)
    latents, noise = torch.randn(2, 4, *LATENT, generator=generator)
    levels = torch.tensor([0, 300, 600, 999])
    noisy = trainer.noisy(latents, noise, levels)
    torch.testing.assert_close(noisy[0], latents[0], atol=0.2, rtol=0)
    torch.testing.assert_close(noisy[3], noise[3], atol=0.4, rtol=0)
    share = unet.signal_shares()[300]
    torch.testing.assert_close(noisy[1], share.sqrt() * latents[1] + (1 - share).sqrt() * noise[1])
    words = torch.tensor([unet.numbers("3 1 4 1")] * 4)
    losses = [trainer.advance(lambda _: (latents, noise, levels, words)) for _ in range(12)]
    assert losses[0] == pytest.approx(float(noise.square().mean()), rel=0.01)
    assert losses[-1] < 0.98 * losses[0]


def test_averaged_weights_are_exported(
    trainer: UNetTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, weights = tmp_path / "unet.pt", tmp_path / "models" / "unet.safetensors"
    for name in trainer.ema:
        trainer.ema[name] = torch.full_like(trainer.ema[name], 0.5)
    trainer.save(checkpoint)
    arguments = ["train_unet", "--out", str(checkpoint), "--export", str(weights)]
    monkeypatch.setattr("sys.argv", arguments)
    train_unet.main()
    saved = load_file(weights)
    assert {value.dtype for value in saved.values()} == {torch.float16}
    assert all(bool((value == 0.5).all()) for value in saved.values())


def test_weights_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, text = unet.new_unet(), torch.nn.Embedding(unet.TEXT_ROWS, unet.TEXT_WIDTH)
    parts = torch.nn.ModuleDict({"unet": model, "text": text})
    save_model(tmp_path / "unet.safetensors", parts.state_dict())
    loaded, table = unet.load_model(tmp_path / "unet.safetensors")
    for before, after in ((model, loaded), (text, table)):
        for name, value in before.state_dict().items():
            torch.testing.assert_close(after.state_dict()[name], value.half().float())
    assert unet.embed(table, ["3 1 4 1", ""]).shape == (2, PLACES, unet.TEXT_WIDTH)


def test_a_perfect_prediction_of_noise_gives_the_picture() -> None:
    """Euler steps with guidance: the noise that leads from one latent is exact at every level."""
    generator = torch.Generator().manual_seed(2)
    wanted, noise = torch.randn(2, 3, *LATENT, generator=generator)
    shares, guidances = unet.signal_shares(), []

    def model(x: torch.Tensor, level: torch.Tensor, context: torch.Tensor, **_: object) -> object:
        share = shares[level]
        exact = (x - share.sqrt() * wanted.repeat(2, 1, 1, 1)) / (1 - share).sqrt()
        guidances.append(context)
        exact[3:] -= 0.3  # the unconditional branch is wrong, and guidance of 1 leaves it out
        return (exact,)

    text = torch.nn.Embedding(unet.TEXT_ROWS, unet.TEXT_WIDTH)
    captions = ["3 1 4 1", "5 9 2 6", "5 3 5 8"]
    latents = unet.sample(model, text, captions, noise, steps=5, guidance=1.0)
    torch.testing.assert_close(latents, wanted, atol=1e-3, rtol=0)
    assert len(guidances) == 5
    torch.testing.assert_close(guidances[0], unet.embed(text, [*captions, "", "", ""]))
    assert unet.levels(5).tolist() == [999, 749, 500, 250, 0]


def test_quarters_are_in_the_order_of_a_caption() -> None:
    pictures = torch.zeros(2, 1, SIZE, SIZE)
    pictures[1, 0, : SIZE // 2, SIZE // 2 :] = 1
    sums = grade_unet.quarters(pictures).sum(dim=1)
    assert sums.tolist() == [0, 0, 0, 0, 0, 256, 0, 0]


def test_digits_that_are_read_are_counted() -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn, which contains the digits")
    scans = torch.zeros(20, DIGIT, DIGIT)
    scans[10:, :, : DIGIT // 2] = 1
    labels = torch.arange(20) // 10
    classifier = grade_unet.new_classifier(scans, labels)
    pixels, digits = grade_unet.read(scans, labels, 10, seed=5)
    assert pixels.shape == (40, 256) and set(digits.tolist()) == {0, 1}
    assert grade_unet.share_right(classifier, pixels, digits) == 1
    assert grade_unet.share_right(classifier, pixels, 1 - digits) == 0
