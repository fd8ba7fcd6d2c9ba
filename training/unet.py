"""The UNet model: a small Stable Diffusion 1.5 UNet for pictures of four handwritten digits.

Residual blocks, skip connections and cross-attention, trained to predict noise (epsilon) at Stable
Diffusion's thousand noise levels, on grey pictures of 32 × 32 pixels with one digit in each
quarter. The digits are the 8 × 8 scans in scikit-learn (UCI Optical Recognition of Handwritten
Digits), turned, scaled and moved at random; pictures are generated during training, so that the
model cannot memorise them. There is no autoencoder: each 2 × 2 square of pixels is one latent
position with 4 channels, as many as Stable Diffusion's latents have: the square's mean and three
differences (Haar), normalised.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from training.digits import DIGIT, DIGITS, SIZE, load_digits

SQUARE, PLACES = 2, 4
LATENT = (SQUARE * SQUARE, SIZE // SQUARE, SIZE // SQUARE)
HAAR = 0.5 * torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]])
"""Of a square of pixels: orthogonal and symmetric, its own inverse."""
MEAN, STD = (-0.8, 0.0, 0.0, 0.0), (1.27, 0.3, 0.34, 0.09)
"""Of its four channels; latents are normalised by them."""
LEVELS = 1000
BETAS = (0.00085, 0.012)
"""First and last of the noise schedule, linear in the root: Stable Diffusion's."""
GUIDANCE = 5.0
"""The strength that samples are usually made with."""

ANGLE, SCALE, OFFSET = 0.25, 0.15, 1.5
"""The most that a digit is turned (radians), scaled (share) and moved (pixels), either way."""
EMPTY = len(DIGITS)
TEXT_ROWS, TEXT_WIDTH = PLACES * (EMPTY + 1), 64
CAPTIONS = tuple(map(" ".join, itertools.product(DIGITS, repeat=PLACES)))

UNET: dict[str, Any] = {
    "sample_size": LATENT[1],
    "in_channels": LATENT[0],
    "out_channels": LATENT[0],
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (64, 64, 128),  # of 32, GroupNorm would take away each channel's mean
    "layers_per_block": 1,
    "attention_head_dim": 8,  # diffusers' name for the number of heads
    "cross_attention_dim": TEXT_WIDTH,
}


def numbers(caption: str) -> list[int]:
    """Rows of the text table for a caption: one for each place and its digit.

    Args:
        caption: the digits at the top left, top right, bottom left and bottom right, such as
            `3 1 4 1`, or empty for the unconditional model.

    Raises:
        ValueError: it is neither.
    """
    words = caption.split()
    if words and (len(words) != PLACES or any(word not in DIGITS for word in words)):
        raise ValueError(f"a caption is four digits, such as '3 1 4 1', not {caption!r}")
    found = [DIGITS.index(word) for word in words] or [EMPTY] * PLACES
    return rows(torch.tensor(found)).tolist()


def rows(labels: Tensor) -> Tensor:
    """Rows of the text table for digits (`EMPTY` for none) [..., PLACES]."""
    return labels + torch.arange(PLACES) * (EMPTY + 1)


def draw(pictures: Tensor, angle: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Pictures of four digits on black, one in each quarter.

    Args:
        pictures: [n, PLACES, DIGIT, DIGIT] in [0, 1], in the order of a caption.
        angle: [n, PLACES], in radians.
        scale: [n, PLACES], 1 for a digit that fills its quarter.
        offset: [n, PLACES, 2], of its centre from the quarter's, (x, y) in pixels.

    Returns:
        [n, 1, SIZE, SIZE] in [-1, 1].
    """
    n = len(pictures)
    corners = torch.tensor([(x, y) for y in (-0.5, 0.5) for x in (-0.5, 0.5)])
    centre = corners + offset * (2 / SIZE)
    # `affine_grid` maps coordinates of the picture to those of the digit, both from -1 to 1.
    cos, sin = angle.cos(), angle.sin()
    turned = torch.stack((cos, sin, -sin, cos), dim=-1).view(n, PLACES, 2, 2)
    turned = turned * (SIZE / DIGIT / scale)[..., None, None]
    theta = torch.cat((turned, -(turned @ centre[..., None])), dim=-1).flatten(0, 1)
    grid = functional.affine_grid(theta, [n * PLACES, 1, SIZE, SIZE], align_corners=False)
    drawn = functional.grid_sample(pictures.flatten(0, 1)[:, None], grid, align_corners=False)
    return 2 * drawn.view(n, PLACES, SIZE, SIZE).amax(dim=1, keepdim=True) - 1


def draw_at_random(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures of four digits, turned, scaled and moved at random (see `draw`)."""

    def uniform(*shape: int) -> Tensor:
        return 2 * torch.rand(len(pictures), PLACES, *shape, generator=generator) - 1

    return draw(pictures, ANGLE * uniform(), 1 + SCALE * uniform(), OFFSET * uniform(2))


def to_latent(pictures: Tensor) -> Tensor:
    """Pictures [n, 1, SIZE, SIZE] in [-1, 1] -> latents [n, *LATENT]."""
    channels = functional.pixel_unshuffle(pictures, SQUARE)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    return (torch.einsum("ij,njhw->nihw", HAAR, channels) - mean) / std


def to_picture(latents: Tensor) -> Tensor:
    """The inverse of `to_latent`, clamped to [-1, 1]."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    channels = torch.einsum("ij,njhw->nihw", HAAR, latents * std + mean)
    return functional.pixel_shuffle(channels, SQUARE).clamp(-1, 1)


def signal_shares() -> Tensor:
    """The share of the clean latent's variance in a noisy one, for each level [LEVELS]."""
    first, last = (beta**0.5 for beta in BETAS)
    return (1 - torch.linspace(first, last, LEVELS).square()).cumprod(dim=0)


def stratified_levels(size: int, generator: torch.Generator) -> Tensor:
    """Noise levels [size] from 0 to LEVELS - 1, one from each of `size` quantiles.

    A level is drawn in proportion to the square root of its number: the noisy ones, where pictures
    are decided on, more often.
    """
    places = torch.randperm(size, generator=generator) + torch.rand(size, generator=generator)
    return ((places / size) ** (2 / 3) * LEVELS).long().clamp(max=LEVELS - 1)


def new_unet() -> Any:
    """A UNet with random weights and a zero output layer."""
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(**UNET)
    nn.init.zeros_(model.conv_out.weight)
    nn.init.zeros_(model.conv_out.bias)
    return model


class Pictures:
    """Training batches, functions of the seed and the step: latents, noise, levels, text rows.

    Args:
        size: of a batch.
        seed: of all random numbers.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.pictures, self.labels = load_digits()
        self.size, self.seed = size, seed

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 7_368_787 + step)
        n = self.size

        picks = torch.randint(len(self.pictures), (n, PLACES), generator=generator)
        latents = to_latent(draw_at_random(self.pictures[picks], generator))
        labels = self.labels[picks]
        labels[torch.rand(n, generator=generator) < 0.1] = EMPTY
        noise = torch.randn(latents.shape, generator=generator)
        return latents, noise, stratified_levels(n, generator), rows(labels)


def load_model(path: Path) -> tuple[Any, nn.Embedding]:
    """The UNet (diffusers) and the text table, in float32."""
    from diffusers import UNet2DConditionModel

    parts: dict[str, dict[str, Tensor]] = {"unet": {}, "text": {}}
    for key, value in load_file(str(path)).items():
        part, name = key.split(".", 1)
        parts[part][name] = value.float()
    unet = UNet2DConditionModel(**UNET).eval().requires_grad_(False)
    unet.load_state_dict(parts["unet"])
    text = nn.Embedding(TEXT_ROWS, TEXT_WIDTH).requires_grad_(False)
    text.load_state_dict(parts["text"])
    return unet, text


def embed(text: nn.Embedding, captions: Sequence[str]) -> Tensor:
    """Embeddings [n, PLACES, TEXT_WIDTH] of n captions."""
    embedded: Tensor = text(torch.tensor([numbers(caption) for caption in captions]))
    return embedded


def sigmas(steps: int) -> Tensor:
    """Noise levels [steps] at equal distances in the schedule, from the highest.

    A sigma is the deviation of the noise where that of the clean latent is 1.
    """
    shares = signal_shares()
    return ((1 - shares) / shares).sqrt()[levels(steps)]


def levels(steps: int) -> Tensor:
    """The numbers [steps] of those levels in the schedule."""
    return torch.linspace(LEVELS - 1, 0, steps).round().long()


@torch.no_grad()
def sample(
    model: Any,
    text: nn.Embedding,
    captions: Sequence[str],
    noise: Tensor,
    steps: int = 20,
    guidance: float = GUIDANCE,
) -> Tensor:
    """Samples of n captions by Euler steps.

    Args:
        model, text: as `load_model` gives them.
        captions: n of them.
        noise: [n, *LATENT], of variance 1.
        steps: of Euler.
        guidance: strength, against the empty caption.

    Returns:
        Latents [n, *LATENT].
    """
    context = embed(text, [*captions, *[""] * len(captions)])
    sequence = torch.cat((sigmas(steps), torch.zeros(1)))
    x = noise * (1 + sequence[0] ** 2).sqrt()
    for level, (sigma, following) in zip(levels(steps), itertools.pairwise(sequence), strict=True):
        scaled = (x / (1 + sigma**2).sqrt()).repeat(2, 1, 1, 1)
        predicted = model(scaled, level, context, return_dict=False)[0]
        conditional, unconditional = predicted.chunk(2)
        x = x + (following - sigma) * (unconditional + guidance * (conditional - unconditional))
    return x
