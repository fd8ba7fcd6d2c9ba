"""Conversion between Pillow images and tensors."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_pil(pixels: Tensor) -> Image.Image:
    """Converts pixels to an 8-bit RGB image.

    Args:
        pixels: `[height, width, channels]`, at least 3 channels, values clamped to 0 to 1; further
            channels are dropped.
    """
    values = (pixels[..., :3].float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.cpu().numpy())


def to_tensor_image(image: Image.Image) -> Tensor:
    """Converts an image to `[height, width, 3]`, float32, values from 0 to 1."""
    values = np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0
    return torch.from_numpy(values)
