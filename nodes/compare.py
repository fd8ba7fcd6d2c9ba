"""Compare Images: metrics of the similarity of two images, and the two side by side."""

from __future__ import annotations

import math

import torch
from comfy_api.latest import io, ui

from ..teacache.comparison.metrics import WINDOW, lpips, psnr, ssim
from ..teacache.plots.comparison import comparison
from ..teacache.plots.pixels import to_pil
from .schema import CATEGORY, schema, to_image


class CompareImages(io.ComfyNode):
    """Compares two batches of images pairwise."""

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
                    display_name="comparison",
                    tooltip="Both pictures and their difference, side by side.",
                ),
                io.String.Output(
                    display_name="metrics", tooltip="PSNR, SSIM and LPIPS, a line per picture."
                ),
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
        plots, lines = [], []
        for a, b in zip(image_a.clamp(0, 1), image_b.clamp(0, 1), strict=True):
            psnr_db, ssim_value = psnr(a, b), _ssim(a, b)
            plots.append(
                comparison(
                    to_pil(a),
                    to_pil(b),
                    amplify,
                    (label_a, label_b),
                    psnr=psnr_db,
                    ssim=ssim_value,
                )
            )
            lines.append(_format_metrics(psnr_db, ssim_value, _lpips(a, b)))
        text = "\n".join(lines)
        image = torch.cat([to_image(plot) for plot in plots])
        preview = ui.PreviewImage(image, cls=cls).as_dict() | ui.PreviewText(text).as_dict()
        return io.NodeOutput(image, text, ui=preview)


def _format_metrics(psnr_db: float, ssim_value: float | None, lpips_value: float | str) -> str:
    parts = ["identical" if math.isinf(psnr_db) else f"PSNR {psnr_db:.2f} dB"]
    if ssim_value is not None:
        parts.append(f"SSIM {ssim_value:.4f}")
    parts.append(lpips_value if isinstance(lpips_value, str) else f"LPIPS {lpips_value:.4f}")
    return " · ".join(parts)


def _ssim(a: torch.Tensor, b: torch.Tensor) -> float | None:
    """SSIM, or None for images that are smaller than its window."""
    return ssim(a, b) if min(a.shape[:2]) >= WINDOW else None


def _lpips(a: torch.Tensor, b: torch.Tensor) -> float | str:
    """LPIPS, or a message that says how to install it."""
    try:
        return lpips(a[..., :3], b[..., :3])
    except (ImportError, OSError) as error:  # not installed, or its weights cannot be fetched
        return str(error)


def _size(images: torch.Tensor) -> str:
    """The shape of `images`, `[count, height, width, channels]`, in words."""
    count, height, width, channels = images.shape
    return f"{count} of {width} x {height} with {channels} channels"


NODES: list[type[io.ComfyNode]] = [CompareImages]
