"""Compare Images: how alike two pictures are, in numbers and side by side."""

from __future__ import annotations

import math

import torch
from comfy_api.latest import io, ui

from ..teacache.comparison.metrics import WINDOW, lpips, psnr, ssim
from ..teacache.plots.comparison import comparison
from ..teacache.plots.pixels import to_pil
from .schema import CATEGORY, schema, to_image


class CompareImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            search_aliases=["PSNR", "SSIM", "LPIPS", "image difference", "A/B"],
            node_id="TeaCacheCompareImages",
            display_name="Compare Images (TeaCache)",
            category=CATEGORY,
            description=(
                "Tells how alike two pictures are (PSNR, SSIM, LPIPS where it is installed), and "
                "shows them side by side with their difference made brighter."
            ),
            inputs=[
                io.Image.Input("image_a", tooltip="The reference, such as the run without cache."),
                io.Image.Input("image_b", tooltip="The picture to judge, of the same size."),
                io.Float.Input(
                    "amplify",
                    default=8.0,
                    min=1.0,
                    max=255.0,
                    step=1.0,
                    tooltip="How many times brighter the difference is shown.",
                ),
                io.String.Input(
                    "label_a", default="without cache", tooltip="What is written over image_a."
                ),
                io.String.Input(
                    "label_b", default="with cache", tooltip="What is written over image_b."
                ),
            ],
            outputs=[
                io.Image.Output(
                    "comparison", tooltip="Both pictures and their difference, side by side."
                ),
                io.String.Output("metrics", tooltip="PSNR, SSIM and LPIPS, a line per picture."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        image_a: torch.Tensor,
        image_b: torch.Tensor,
        amplify: float,
        label_a: str,
        label_b: str,
    ) -> io.NodeOutput:
        if image_a.shape != image_b.shape:
            raise ValueError(
                f"image_b: it must have the count and size of image_a, {_size(image_a)}, "
                f"not {_size(image_b)}"
            )
        pictures, lines = [], []
        for a, b in zip(image_a.clamp(0, 1), image_b.clamp(0, 1), strict=True):
            noise, similarity = psnr(a, b), _ssim(a, b)
            pictures.append(
                comparison(
                    to_pil(a),
                    to_pil(b),
                    amplify,
                    (label_a, label_b),
                    psnr=noise,
                    ssim=similarity,
                )
            )
            lines.append(_line(noise, similarity, _lpips(a, b)))
        text = "\n".join(lines)
        image = torch.cat([to_image(picture) for picture in pictures])
        shown = ui.PreviewImage(image, cls=cls).as_dict() | ui.PreviewText(text).as_dict()
        return io.NodeOutput(image, text, ui=shown)


def _line(noise: float, similarity: float | None, distance: float | str) -> str:
    parts = ["identical" if math.isinf(noise) else f"PSNR {noise:.2f} dB"]
    if similarity is not None:
        parts.append(f"SSIM {similarity:.4f}")
    parts.append(distance if isinstance(distance, str) else f"LPIPS {distance:.4f}")
    return " · ".join(parts)


def _ssim(a: torch.Tensor, b: torch.Tensor) -> float | None:
    """None where the pictures are smaller than its window."""
    return ssim(a, b) if min(a.shape[:2]) >= WINDOW else None


def _lpips(a: torch.Tensor, b: torch.Tensor) -> float | str:
    """The distance, or how to get it."""
    try:
        return lpips(a[..., :3], b[..., :3])
    except (ImportError, OSError) as error:  # not installed, or its weights cannot be fetched
        return str(error)


def _size(images: torch.Tensor) -> str:
    count, height, width, channels = images.shape
    return f"{count} of {width} x {height} with {channels} channels"


NODES: list[type[io.ComfyNode]] = [CompareImages]
