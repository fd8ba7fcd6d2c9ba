"""Pictures between Pillow and tensors."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_pil(pixels: Tensor) -> Image.Image:
    """[H, W, C] in 0 to 1 (what lies outside is cut off) as an RGB picture of 8 bits."""
    values = (pixels[..., :3].float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.cpu().numpy())


def to_tensor_image(picture: Image.Image) -> Tensor:
    """[H, W, 3], floats in 0 to 1."""
    values = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255.0
    return torch.from_numpy(values)
