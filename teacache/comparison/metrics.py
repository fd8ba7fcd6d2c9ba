"""How alike two pictures are: PSNR, SSIM, and LPIPS where its package is installed."""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03
INSTALL_LPIPS = "LPIPS needs the lpips package: pip install 'teacache-studio[metrics]'"


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB over all pixels; `math.inf` for identical pictures.

    a, b: floats in [0, 1] of one shape, [H, W, C] or [B, H, W, C]. Raises `ValueError` otherwise.
    """
    a, b = checked(a, b)
    errors = [float(((x.double() - y.double()) ** 2).mean()) for x, y in zip(a, b, strict=True)]
    error = sum(errors) / len(errors)
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity (Wang et al. 2004), 1 for identical pictures.

    Gaussian window of 11 pixels, sigma 1.5, K1 0.01, K2 0.03, range 1, population variances;
    the mean over channels and all positions where the window lies inside the picture, hence
    at least 11 x 11 pixels. Shapes and errors as for `psnr`.
    """
    a, b = checked(a, b)
    if min(a.shape[1:3]) < WINDOW:
        raise ValueError(
            f"ssim: pictures must be at least {WINDOW} x {WINDOW} pixels, not "
            f"{a.shape[1]} x {a.shape[2]}"
        )
    # one picture at a time: intermediate values in float64 take twenty times its size
    values = [_picture_ssim(x.double(), y.double()) for x, y in zip(a, b, strict=True)]
    return sum(values) / len(values)


def _picture_ssim(a: Tensor, b: Tensor) -> float:
    """`ssim` of two pictures, [H, W, C]."""
    x, y = a.movedim(-1, 0)[:, None], b.movedim(-1, 0)[:, None]
    mean_x, mean_y = blur(x), blur(y)
    var_x = blur(x * x) - mean_x**2
    var_y = blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return float((luminance * structure).mean())


def lpips(
    a: Tensor,
    b: Tensor,
    backbone: str = "alex",
    network: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> float:
    """Learned perceptual distance with the named backbone (alex, vgg, squeeze), 0 for identical.

    network: used in place of the package's own, whose backbone is fetched: two pictures in
    [-1, 1], [B, 3, H, W], to distances. Shapes and errors as for `psnr`, with three channels;
    `ImportError` says how to install it.
    """
    a, b = checked(a, b)
    if a.shape[-1] != 3:
        raise ValueError(f"lpips: pictures must have 3 channels, not {a.shape[-1]}")
    if backbone not in ("alex", "vgg", "squeeze"):
        raise ValueError(f"lpips: backbone must be alex, vgg or squeeze, not {backbone!r}")
    if network is None:
        network = lpips_network(backbone)
    with torch.no_grad():
        x, y = (2 * picture.float().movedim(-1, 1) - 1 for picture in (a, b))
        return float(network(x, y).mean())


def picture_metrics(a: Tensor, b: Tensor, with_lpips: bool = True) -> dict[str, Any]:
    """All metrics as JSON.

    Args:
        a, b: as for `psnr`.
        with_lpips: whether LPIPS is measured, where its package and weights are at hand.

    Returns:
        `identical`; `psnr`, None for identical pictures; `ssim`, None for pictures smaller than
        its window; `lpips`, None where it was not measured, else with `lpips_backbone`.
    """
    value = psnr(a, b)
    metrics: dict[str, Any] = {
        "identical": math.isinf(value),
        "psnr": None if math.isinf(value) else value,
        "ssim": ssim(a, b) if min(a.shape[-3:-1]) >= WINDOW else None,
        "lpips": None,
    }
    if with_lpips:
        # OSError: its weights cannot be fetched
        with contextlib.suppress(ImportError, OSError):
            metrics |= {"lpips": lpips(a[..., :3], b[..., :3]), "lpips_backbone": "alex"}
    return metrics


def checked(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both pictures as [B, H, W, C] on the CPU, or `ValueError`."""
    if a.shape != b.shape:
        raise ValueError(f"pictures must have one shape, not {tuple(a.shape)} and {tuple(b.shape)}")
    if a.ndim not in (3, 4) or a.numel() == 0:
        raise ValueError(f"pictures must be [H, W, C] or [B, H, W, C], not {tuple(a.shape)}")
    for picture in (a, b):
        if not picture.is_floating_point():
            raise ValueError(f"pictures must be floats in [0, 1], not {picture.dtype}")
        low, high = float(picture.min()), float(picture.max())
        if not (low >= 0 and high <= 1):  # false for NaN as well
            raise ValueError(f"pictures must lie in [0, 1], not in [{low:g}, {high:g}]")
    shape = (-1, *a.shape[-3:])
    return a.cpu().reshape(shape), b.cpu().reshape(shape)


def blur(planes: Tensor) -> Tensor:
    """Gaussian mean of [N, 1, H, W] at every position where the window fits."""
    offsets = torch.arange(WINDOW, dtype=planes.dtype) - WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    window = window / window.sum()
    return conv2d(conv2d(planes, window[None, None, :, None]), window[None, None, None, :])


@functools.lru_cache(maxsize=1)
def lpips_network(backbone: str) -> Any:
    try:
        import lpips as package
    except ImportError as error:
        raise ImportError(INSTALL_LPIPS) from error
    with contextlib.redirect_stdout(sys.stderr):  # it prints a line when it fetches weights
        return package.LPIPS(net=backbone, verbose=False).eval()
