"""A second test model, of another kind and on other data: short films of moving digits.

A small Wan transformer (video tokens, cross-attention, a timestep embedding that does not know
the text) on six frames of 32 × 32 grey pixels. The digits are the 8 × 8 scans that come with
scikit-learn (UCI Optical Recognition of Handwritten Digits); the films are made as they are
needed, so that the model cannot know them by heart. Its latent is the film itself: each 4 × 4
square of pixels is one position with 16 channels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

FRAMES, SIZE, DIGIT, SQUARE = 6, 32, 16, 4
LATENT = (SQUARE * SQUARE, FRAMES, SIZE // SQUARE, SIZE // SQUARE)
MEAN, STD = -0.83, 0.42
"""Of the pixels: latents have about zero mean and unit variance."""
SHIFT = 3.0
"""Timestep shift the model is sampled with."""

DIGITS = tuple(str(digit) for digit in range(10))
DIRECTIONS = ("right", "down-right", "down", "down-left", "left", "up-left", "up", "up-right")
SPEEDS = {"slow": 1.0, "fast": 2.2}
WORDS = ("", *DIGITS, *DIRECTIONS, *SPEEDS)
CAPTIONS = tuple(" ".join(words) for words in itertools.product(DIGITS, DIRECTIONS, SPEEDS))
CAPTION_WORDS, TEXT_WIDTH = 3, 64

TRANSFORMER: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 128,
    "in_channels": LATENT[0],
    "out_channels": LATENT[0],
    "text_dim": TEXT_WIDTH,
    "freq_dim": 256,
    "ffn_dim": 1024,
    "num_layers": 6,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 64,
}


def numbers(caption: str) -> list[int]:
    """The words of a caption, `3 up-left fast`; an empty one stands for any film."""
    words = caption.split()
    if not words:
        return [0] * CAPTION_WORDS
    if len(words) != CAPTION_WORDS or any(word not in WORDS for word in words):
        raise ValueError(f"a caption is a digit, a direction and a speed, not {caption!r}")
    return [WORDS.index(word) for word in words]


def load_digits() -> tuple[Tensor, Tensor]:
    """(pictures [n, 16, 16] in [0, 1], labels [n])."""
    from sklearn.datasets import load_digits as scans

    data = scans()
    pictures = torch.from_numpy(data.images).float()[:, None] / 16
    large = functional.interpolate(pictures, size=(DIGIT, DIGIT), mode="bicubic")
    return large[:, 0].clamp(0, 1), torch.from_numpy(data.target)


def film(pictures: Tensor, start: Tensor, velocity: Tensor) -> Tensor:
    """Films [n, FRAMES, SIZE, SIZE] in [-1, 1] of `pictures` [n, DIGIT, DIGIT] on black.

    start [n, 2]: place (x, y) of the first frame, in pixels from the left upper corner, 0 to
    SIZE - DIGIT. velocity [n, 2]: pixels per frame; at the border the digit turns back.
    """
    room = SIZE - DIGIT
    times = torch.arange(FRAMES).view(1, -1, 1)
    place = (start[:, None] + velocity[:, None] * times) % (2 * room)
    place = torch.where(place > room, 2 * room - place, place).flatten(0, 1)
    # `affine_grid` maps places of the frame to places of the picture, both from -1 to 1.
    theta = torch.zeros(len(place), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = SIZE / DIGIT
    theta[:, :, 2] = (room - 2 * place) / DIGIT
    grid = functional.affine_grid(theta, [len(place), 1, SIZE, SIZE], align_corners=False)
    source = pictures[:, None].repeat_interleave(FRAMES, dim=0)
    drawn = functional.grid_sample(source, grid, align_corners=False)
    return (2 * drawn - 1).view(-1, FRAMES, SIZE, SIZE)


def to_latent(films: Tensor) -> Tensor:
    """[n, FRAMES, SIZE, SIZE] in [-1, 1] as [n, *LATENT]."""
    scaled = ((films - MEAN) / STD)[:, :, None]
    return functional.pixel_unshuffle(scaled, SQUARE).transpose(1, 2)


def to_film(latents: Tensor) -> Tensor:
    """The inverse of `to_latent`, kept in [-1, 1]."""
    pixels = functional.pixel_shuffle(latents.transpose(1, 2), SQUARE)[:, :, 0]
    return (pixels * STD + MEAN).clamp(-1, 1)


def new_transformer() -> Any:
    """Random weights, with every modulation and the output starting from zero."""
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel(**TRANSFORMER)
    nn.init.zeros_(model.proj_out.weight)
    nn.init.zeros_(model.proj_out.bias)
    return model


class Films:
    """Batch number `step`, from the seed alone: latents, noise, times and caption numbers."""

    def __init__(self, size: int, seed: int, times: Any) -> None:
        self.pictures, self.labels = load_digits()
        self.size, self.seed, self.times = size, seed, times

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 7_368_787 + step)
        n = self.size

        def draw(high: int) -> Tensor:
            return torch.randint(high, (n,), generator=generator)

        picked, direction, speed = draw(len(self.pictures)), draw(8), draw(2)
        pace = torch.tensor(list(SPEEDS.values()))[speed, None]
        angle = direction * (math.pi / 4)
        velocity = torch.stack((angle.cos(), angle.sin()), dim=1) * pace
        start = torch.rand(n, 2, generator=generator) * (SIZE - DIGIT)
        latents = to_latent(film(self.pictures[picked], start, velocity))
        ids = torch.stack((1 + self.labels[picked], 11 + direction, 19 + speed), dim=1)
        ids[torch.rand(n, generator=generator) < 0.1] = 0
        noise = torch.randn(latents.shape, generator=generator)
        return latents, noise, self.times(n, generator), ids


def save_model(path: Path, weights: dict[str, Tensor]) -> None:
    """`transformer.*` and `text.*`, as half floats."""
    save_file({k: v.half().contiguous() for k, v in weights.items()}, path, {"format": "pt"})


def load_model(path: Path) -> tuple[Any, nn.Embedding]:
    """The transformer (diffusers) and the embedding of caption words, as float32."""
    from diffusers import WanTransformer3DModel

    weights = {name: value.float() for name, value in load_file(str(path)).items()}
    parts: dict[str, dict[str, Tensor]] = {"transformer": {}, "text": {}}
    for key, value in weights.items():
        part, name = key.split(".", 1)
        parts[part][name] = value
    transformer = WanTransformer3DModel(**TRANSFORMER).eval().requires_grad_(False)
    transformer.load_state_dict(parts["transformer"])
    text = nn.Embedding(len(WORDS), TEXT_WIDTH).requires_grad_(False)
    text.load_state_dict(parts["text"])
    return transformer, text


def embed(text: nn.Embedding, captions: Sequence[str]) -> Tensor:
    """[n, CAPTION_WORDS, TEXT_WIDTH]"""
    embedded: Tensor = text(torch.tensor([numbers(caption) for caption in captions]))
    return embedded
