"""Two images side by side with their difference."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageChops

from .canvas import GRID, MUTED, TEXT, Canvas, shorten

GAP, MARGIN, HEADER = 16, 20, 58
MIN_SIZE = 256  # images whose longer side is below it are enlarged by an integer factor


def comparison(
    a: Image.Image,
    b: Image.Image,
    amplify: float = 8,
    labels: Sequence[str] = ("uncached", "cached"),
    *,
    psnr: float | None = None,
    ssim: float | None = None,
) -> Image.Image:
    """Draws two images and their amplified absolute difference side by side.

    Args:
        a: The reference.
        b: The image to compare, of the same size.
        amplify: Factor by which the difference is brightened.
        labels: A label for each image; what follows a line break is written smaller.
        psnr: In dB, written over the difference; infinity reads "identical".
        ssim: Written over the difference.

    Returns:
        An RGB image.

    Raises:
        ValueError: The images differ in size, or there are not two labels.
    """
    if a.size != b.size:
        raise ValueError(f"images must have one size, not {a.size} and {b.size}")
    if len(labels) != 2:
        raise ValueError(f"labels must be two texts, not {len(labels)}")
    a, b = a.convert("RGB"), b.convert("RGB")
    difference = ImageChops.difference(a, b)
    amplified = difference.point([min(255, round(value * amplify)) for value in range(256)] * 3)
    factor = max(1, math.ceil(MIN_SIZE / max(a.size)))
    width, height = a.width * factor, a.height * factor
    canvas = Canvas(3 * width + 2 * GAP + 2 * MARGIN, height + HEADER + MARGIN)
    identical = difference.getbbox() is None
    captions = [
        (labels[0], ""),
        (labels[1], ""),
        (f"difference, {amplify:g}x brighter", format_metrics(psnr, ssim)),
    ]
    if identical:
        captions[2] = ("no difference", "bit-identical")
    lefts = [MARGIN + i * (width + GAP) for i in range(3)]
    for x, (label, note) in zip(lefts, captions, strict=True):
        title, _, detail = label.partition("\n")
        canvas.rectangle(x - 1, HEADER - 1, x + width + 1, HEADER + height + 1, GRID)
        canvas.text(x, 28, shorten(title, 17, width), 17, TEXT)
        canvas.text(x, 47, shorten(note or detail, 13, width), 13, MUTED)
    plot = canvas.render()
    for x, image in zip(lefts, (a, b, amplified), strict=True):
        plot.paste(image.resize((width, height), Image.Resampling.NEAREST), (x, HEADER))
    return plot


def format_metrics(psnr: float | None, ssim: float | None) -> str:
    """`PSNR 31.2 dB · SSIM 0.954`, without those that are None."""
    parts = []
    if psnr is not None:
        parts.append("identical" if math.isinf(psnr) else f"PSNR {psnr:.1f} dB")
    if ssim is not None:
        parts.append(f"SSIM {ssim:.3f}")
    return " · ".join(parts)
