"""A third test model: photographs of clothes, many different pictures for one caption.

A small FLUX transformer (double and single stream blocks) on pictures of 64 × 64 pixels. There is
no autoencoder: the latent is the picture itself, as brightness at full size and colour at half
size, each 4 × 4 square of pixels being one position with 24 channels. FLUX packs 2 × 2 positions
into one token, so a picture is 64 tokens of 96 values. The caption is one of ten classes, or empty.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from training.data import DATA

ARCHIVE = DATA / "photos144.zip"
"""Where the zip of photographs is kept, which is not in the repository."""
SIZE, SQUARE = 64, 4
LATENT = (SQUARE * SQUARE + 2 * (SQUARE // 2) ** 2, SIZE // SQUARE, SIZE // SQUARE)
TOKENS = (SIZE // (2 * SQUARE)) ** 2
MEAN, STD = (-0.055, -0.025, 0.062), (0.46, 0.115, 0.165)
"""Of brightness and the two colour differences: latents have about unit variance."""
SHIFT = 1.0
"""Timestep shift the model is sampled with."""
GUIDANCE = 4.0

CLASSES = (
    "dress", "hat", "longsleeve", "outwear", "pants",
    "shirt", "shoes", "shorts", "skirt", "t-shirt",
)  # fmt: skip
CAPTIONS = ("", *CLASSES)
CAPTION_TOKENS, TEXT_WIDTH = 4, 128
METADATA = "teacache_photos"

TRANSFORMER: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 4 * LATENT[0],
    "num_layers": 2,
    "num_single_layers": 6,
    "attention_head_dim": 64,
    "num_attention_heads": 4,
    "joint_attention_dim": TEXT_WIDTH,
    "pooled_projection_dim": TEXT_WIDTH,
    "guidance_embeds": False,
    "axes_dims_rope": (8, 28, 28),
}

# Rows: brightness and the two colour differences of JPEG, for pixels in [-1, 1].
YCC = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)


def numbers(captions: Sequence[str]) -> Tensor:
    """Captions as rows of the text table.

    Args:
        captions: class names; an empty one stands for any picture.

    Returns:
        One integer for each caption.

    Raises:
        ValueError: if a caption is no class.
    """
    unknown = [caption for caption in captions if caption not in CAPTIONS]
    if unknown:
        raise ValueError(f"a caption is empty or one of {', '.join(CLASSES)}, not {unknown[0]!r}")
    return torch.tensor([CAPTIONS.index(caption) for caption in captions])


def constants(like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(the matrix, the mean, the deviation) as tensors of `like`'s type and place."""
    mean, std = (like.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return YCC.to(like), mean, std


def to_latent(pictures: Tensor) -> Tensor:
    """Pictures as latents.

    Args:
        pictures: [n, 3, SIZE, SIZE] in [-1, 1].

    Returns:
        [n, *LATENT]: of each square its brightness, then its two colour differences.
    """
    matrix, mean, std = constants(pictures)
    planes = (torch.einsum("ij,njhw->nihw", matrix, pictures) - mean) / std
    brightness = functional.pixel_unshuffle(planes[:, :1], SQUARE)
    colour = functional.avg_pool2d(planes[:, 1:], 2)
    return torch.cat((brightness, functional.pixel_unshuffle(colour, SQUARE // 2)), dim=1)


def to_picture(latents: Tensor) -> Tensor:
    """The inverse of `to_latent`, but for the colour's fine detail.

    Args:
        latents: [n, *LATENT].

    Returns:
        [n, 3, SIZE, SIZE] in [-1, 1].
    """
    matrix, mean, std = constants(latents)
    split = SQUARE * SQUARE
    brightness = functional.pixel_shuffle(latents[:, :split], SQUARE)
    half = functional.pixel_shuffle(latents[:, split:], SQUARE // 2)
    colour = functional.interpolate(half, scale_factor=2, mode="bilinear", align_corners=False)
    planes = torch.cat((brightness, colour), dim=1) * std + mean
    return torch.einsum("ij,njhw->nihw", torch.linalg.inv(matrix), planes).clamp(-1, 1)


def pack(latents: Tensor) -> Tensor:
    """[n, c, h, w] as FLUX tokens [n, h/2 * w/2, 4c], as diffusers' `FluxPipeline` packs them."""
    n, c, h, w = latents.shape
    squares = latents.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(n, h // 2 * (w // 2), 4 * c)


def unpack(tokens: Tensor) -> Tensor:
    """The inverse of `pack`, for pictures of the trained size."""
    c, h, w = LATENT
    squares = tokens.view(-1, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return squares.reshape(-1, c, h, w)


def positions() -> tuple[Tensor, Tensor]:
    """(places of the picture's tokens [TOKENS, 3], places of the text tokens, all zero)."""
    side = SIZE // (2 * SQUARE)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    places = torch.stack((torch.zeros_like(rows), rows, columns), dim=-1).view(-1, 3)
    return places.float(), torch.zeros(CAPTION_TOKENS, 3)


class TextTable(nn.Module):
    """A few learned tokens and one pooled vector for each class and for the empty caption."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(len(CAPTIONS), (CAPTION_TOKENS + 1) * TEXT_WIDTH)

    def forward(self, captions: Tensor) -> tuple[Tensor, Tensor]:
        """Looks captions up.

        Args:
            captions: their numbers, [n].

        Returns:
            (tokens [n, CAPTION_TOKENS, TEXT_WIDTH], pooled [n, TEXT_WIDTH]).
        """
        rows = self.table(captions).view(-1, CAPTION_TOKENS + 1, TEXT_WIDTH)
        return rows[:, :-1], rows[:, -1]


def embed(text: TextTable, captions: Sequence[str]) -> dict[str, Tensor]:
    """Captions as the text arguments of diffusers' `FluxPipeline`."""
    device = text.table.weight.device
    tokens, pooled = text(numbers(captions).to(device))
    return {"prompt_embeds": tokens, "pooled_prompt_embeds": pooled}


def new_transformer() -> Any:
    """Random weights, with every modulation and the output starting from zero."""
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(**TRANSFORMER)
    endings = ("norm.linear", "norm1.linear", "norm1_context.linear", "norm_out.linear")
    modulations = [m for n, m in model.named_modules() if n.endswith(endings)]
    for layer in [*modulations, model.proj_out]:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


def save_model(path: Path, weights: dict[str, Tensor], **about: Any) -> None:
    """Writes a model as half floats, by way of a second file, so that none is ever incomplete.

    Args:
        path: the safetensors file.
        weights: `transformer.*` and `text.*`.
        about: what else to write into the metadata, beside the classes.
    """
    metadata = {"format": "pt", METADATA: json.dumps({"classes": CLASSES, **about})}
    partial = path.with_suffix(".partial")
    save_file({k: v.half().cpu().contiguous() for k, v in weights.items()}, partial, metadata)
    partial.replace(path)


def read_about(path: Path) -> dict[str, Any]:
    """The metadata that `save_model` wrote.

    Raises:
        ValueError: if the file is none of this model, or one of other classes.
    """
    with safe_open(str(path), framework="pt") as file:
        written = (file.metadata() or {}).get(METADATA)
    if written is None:
        raise ValueError(f"{path} holds no photos model")
    about: dict[str, Any] = json.loads(written)
    if tuple(about["classes"]) != CLASSES:
        raise ValueError(f"{path} was trained on other classes: {', '.join(about['classes'])}")
    return about


def load_model(path: Path) -> tuple[Any, TextTable]:
    """Loads a model, as float32 and for sampling.

    Returns:
        (diffusers' transformer, the text table). The transformer has a guidance embedder where
        the metadata say so: then it is guidance-distilled.

    Raises:
        ValueError: if the file is none of this model.
    """
    from diffusers import FluxTransformer2DModel

    distilled = bool(read_about(path).get("guidance_embeds", False))
    parts: dict[str, dict[str, Tensor]] = {"transformer": {}, "text": {}}
    for key, value in load_file(str(path)).items():
        part, name = key.split(".", 1)
        parts[part][name] = value.float()
    transformer = FluxTransformer2DModel(**{**TRANSFORMER, "guidance_embeds": distilled})
    transformer.eval().requires_grad_(False).load_state_dict(parts["transformer"])
    text = TextTable().eval().requires_grad_(False)
    text.load_state_dict(parts["text"])
    return transformer, text


def schedule(steps: int, shift: float = SHIFT) -> Tensor:
    """Noise levels from 1 to 0, [steps + 1]."""
    time = torch.linspace(1, 0, steps + 1)
    return shift * time / (1 + (shift - 1) * time)


def guided_velocity(
    transformer: Any, text: TextTable, captions: Tensor, x: Tensor, times: Tensor, guidance: Tensor
) -> Tensor:
    """What the model predicts for noise - picture, with guidance.

    A guidance-distilled transformer takes the strength as an input and is called for the captions
    alone; any other is called for the captions and the empty caption in one batch.

    Args:
        transformer, text: as `load_model` returns them.
        captions: their numbers, [n].
        x: noisy latents, packed, [n, TOKENS, 4 * LATENT[0]].
        times: noise levels, [n].
        guidance: strengths, [n]; 1 takes the captions as they are.

    Returns:
        [n, TOKENS, 4 * LATENT[0]].
    """
    distilled = transformer.config.guidance_embeds
    if not distilled:
        captions = torch.cat((captions, torch.zeros_like(captions)))
        x, times = torch.cat((x, x)), torch.cat((times, times))
    tokens, pooled = text(captions)
    places, text_places = (ids.to(x.device) for ids in positions())
    velocity: Tensor = transformer(
        hidden_states=x,
        encoder_hidden_states=tokens,
        pooled_projections=pooled,
        timestep=times,
        guidance=guidance if distilled else None,
        img_ids=places,
        txt_ids=text_places,
        return_dict=False,
    )[0]
    if distilled:
        return velocity
    with_text, without = velocity.chunk(2)
    return without + guidance.view(-1, 1, 1) * (with_text - without)


@torch.no_grad()
def sample(
    transformer: Any,
    text: TextTable,
    captions: Sequence[str],
    noise: Tensor,
    levels: Tensor,
    guidance: float = GUIDANCE,
) -> Tensor:
    """Euler steps with guidance.

    Args:
        transformer, text: as `load_model` returns them.
        captions: n class names.
        noise: [n, *LATENT].
        levels: noise levels, the first 1 and the last 0.
        guidance: as in `guided_velocity`.

    Returns:
        Latents [n, *LATENT].
    """
    device = text.table.weight.device
    x, rows = pack(noise.to(device)), numbers(captions).to(device)
    strength = torch.full((len(captions),), guidance, device=device)
    for level, following in itertools.pairwise(levels.tolist()):
        times = torch.full_like(strength, level)
        velocity = guided_velocity(transformer, text, rows, x, times, strength)
        x = x + (following - level) * velocity
    return unpack(x)
