"""The digits model: a small Wan transformer for films of moving digits.

A video model with cross-attention and a timestep embedding without text, on six frames of 32 × 32
grey pixels. The digits are the 8 × 8 scans in scikit-learn (UCI Optical Recognition of Handwritten
Digits). Films are generated during training, so that the model cannot memorise them. There is no
autoencoder: each 4 × 4 square of pixels is one latent position with 16 channels.
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
"""Of the pixels; latents are normalised by them."""
SHIFT = 3.0
"""Timestep shift for sampling."""

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
    """Indices in `WORDS` of the words of a caption.

    Args:
        caption: such as `3 up-left fast`, or empty for the unconditional model.

    Raises:
        ValueError: it is neither.
    """
    words = caption.split()
    if not words:
        return [0] * CAPTION_WORDS
    if len(words) != CAPTION_WORDS or any(word not in WORDS for word in words):
        raise ValueError(f"a caption is a digit, a direction and a speed, not {caption!r}")
    return [WORDS.index(word) for word in words]


def load_digits() -> tuple[Tensor, Tensor]:
    """Pictures [n, 16, 16] in [0, 1], and their labels [n]."""
    from sklearn.datasets import load_digits as scans

    data = scans()
    pictures = torch.from_numpy(data.images).float()[:, None] / 16
    large = functional.interpolate(pictures, size=(DIGIT, DIGIT), mode="bicubic")
    return large[:, 0].clamp(0, 1), torch.from_numpy(data.target)


def film(pictures: Tensor, start: Tensor, velocity: Tensor) -> Tensor:
    """Films of digits that move over black and bounce at the borders.

    Args:
        pictures: [n, DIGIT, DIGIT] in [0, 1].
        start: [n, 2], position (x, y) of the top left corner in the first frame, in pixels, from 0
            to SIZE - DIGIT.
        velocity: [n, 2], pixels per frame.

    Returns:
        [n, FRAMES, SIZE, SIZE] in [-1, 1].
    """
    limit = SIZE - DIGIT
    times = torch.arange(FRAMES).view(1, -1, 1)
    position = (start[:, None] + velocity[:, None] * times) % (2 * limit)
    position = torch.where(position > limit, 2 * limit - position, position).flatten(0, 1)
    # `affine_grid` maps coordinates of the frame to those of the picture, both from -1 to 1.
    theta = torch.zeros(len(position), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = SIZE / DIGIT
    theta[:, :, 2] = (limit - 2 * position) / DIGIT
    grid = functional.affine_grid(theta, [len(position), 1, SIZE, SIZE], align_corners=False)
    source = pictures[:, None].repeat_interleave(FRAMES, dim=0)
    drawn = functional.grid_sample(source, grid, align_corners=False)
    return (2 * drawn - 1).view(-1, FRAMES, SIZE, SIZE)


def to_latent(films: Tensor) -> Tensor:
    """Films [n, FRAMES, SIZE, SIZE] in [-1, 1] -> latents [n, *LATENT]."""
    scaled = ((films - MEAN) / STD)[:, :, None]
    return functional.pixel_unshuffle(scaled, SQUARE).transpose(1, 2)


def to_film(latents: Tensor) -> Tensor:
    """The inverse of `to_latent`, clamped to [-1, 1]."""
    pixels = functional.pixel_shuffle(latents.transpose(1, 2), SQUARE)[:, :, 0]
    return (pixels * STD + MEAN).clamp(-1, 1)


def new_transformer() -> Any:
    """A transformer with random weights and a zero output layer."""
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel(**TRANSFORMER)
    nn.init.zeros_(model.proj_out.weight)
    nn.init.zeros_(model.proj_out.bias)
    return model


class Films:
    """Training batches, functions of the seed and the step: latents, noise, times, caption words.

    Args:
        size: of a batch.
        seed: of all random numbers.
        times: (size, generator) -> times [size].
    """

    def __init__(self, size: int, seed: int, times: Any) -> None:
        self.pictures, self.labels = load_digits()
        self.size, self.seed, self.times = size, seed, times

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 7_368_787 + step)
        n = self.size

        def draw(high: int) -> Tensor:
            return torch.randint(high, (n,), generator=generator)

        digit, direction, speed = draw(len(self.pictures)), draw(8), draw(2)
        pixels_per_frame = torch.tensor(list(SPEEDS.values()))[speed, None]
        angle = direction * (math.pi / 4)
        velocity = torch.stack((angle.cos(), angle.sin()), dim=1) * pixels_per_frame
        start = torch.rand(n, 2, generator=generator) * (SIZE - DIGIT)
        latents = to_latent(film(self.pictures[digit], start, velocity))
        ids = torch.stack((1 + self.labels[digit], 11 + direction, 19 + speed), dim=1)
        ids[torch.rand(n, generator=generator) < 0.1] = 0
        noise = torch.randn(latents.shape, generator=generator)
        return latents, noise, self.times(n, generator), ids


def save_model(path: Path, weights: dict[str, Tensor]) -> None:
    """Save the weights `transformer.*` and `text.*` in float16."""
    save_file({k: v.half().contiguous() for k, v in weights.items()}, path, {"format": "pt"})


def load_model(path: Path) -> tuple[Any, nn.Embedding]:
    """The transformer (diffusers) and the embedding of caption words, in float32."""
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
    """Embeddings [n, CAPTION_WORDS, TEXT_WIDTH] of n captions."""
    embedded: Tensor = text(torch.tensor([numbers(caption) for caption in captions]))
    return embedded
