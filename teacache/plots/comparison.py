"""Two pictures side by side with their difference."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageChops

from .canvas import GRID, INK, MUTED, Canvas, shorten

GAP, EDGE, HEAD = 16, 20, 58
SMALLEST = 256  # pictures below this size are enlarged by a whole factor


def comparison(
    a: Image.Image,
    b: Image.Image,
    amplify: float = 8,
    labels: Sequence[str] = ("uncached", "cached"),
    *,
    psnr: float | None = None,
    ssim: float | None = None,
) -> Image.Image:
    """`a`, `b` and their absolute difference times `amplify`, labelled, on one RGB picture.

    psnr (dB) and ssim are written under the difference's label where given; an infinite psnr
    reads "identical". Raises `ValueError` when the pictures differ in size.
    """
    if a.size != b.size:
        raise ValueError(f"pictures must have one size, not {a.size} and {b.size}")
    if len(labels) != 2:
        raise ValueError(f"labels must be two texts, not {len(labels)}")
    a, b = a.convert("RGB"), b.convert("RGB")
    difference = ImageChops.difference(a, b)
    loud = difference.point([min(255, round(value * amplify)) for value in range(256)] * 3)
    factor = max(1, math.ceil(SMALLEST / max(a.size)))
    width, height = a.width * factor, a.height * factor
    canvas = Canvas(3 * width + 2 * GAP + 2 * EDGE, height + HEAD + EDGE)
    identical = difference.getbbox() is None
    captions = [
        (labels[0], ""),
        (labels[1], ""),
        (f"difference, {amplify:g}x brighter", measures(psnr, ssim)),
    ]
    if identical:
        captions[2] = ("no difference", "bit-identical")
    places = [EDGE + i * (width + GAP) for i in range(3)]
    for x, (label, note) in zip(places, captions, strict=True):
        main, _, detail = label.partition("\n")
        canvas.box(x - 1, HEAD - 1, x + width + 1, HEAD + height + 1, GRID)
        canvas.text(x, 28, shorten(main, 17, width), 17, INK)
        canvas.text(x, 47, shorten(note or detail, 13, width), 13, MUTED)
    picture = canvas.finish()
    for x, image in zip(places, (a, b, loud), strict=True):
        picture.paste(image.resize((width, height), Image.Resampling.NEAREST), (x, HEAD))
    return picture


def measures(psnr: float | None, ssim: float | None) -> str:
    """`PSNR 31.2 dB · SSIM 0.954`, as far as they are given."""
    parts = []
    if psnr is not None:
        parts.append("identical" if math.isinf(psnr) else f"PSNR {psnr:.1f} dB")
    if ssim is not None:
        parts.append(f"SSIM {ssim:.3f}")
    return " · ".join(parts)
