"""Metrics against formulas written out here, known values, and properties."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from teacache.comparison import metrics


def pictures(seed: int, shape=(24, 31, 3), noise=0.1):
    generator = np.random.default_rng(seed)
    a = generator.random(shape)
    return a, np.clip(a + generator.normal(0, noise, shape), 0, 1)


def reference_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM by its formula, with SciPy's Gaussian cut to 11 pixels; the border of 5 left out."""

    def mean(plane):
        return gaussian_filter(plane, 1.5, truncate=5 / 1.5)[5:-5, 5:-5]

    values = []
    for channel in range(a.shape[-1]):
        x, y = a[..., channel], b[..., channel]
        mx, my = mean(x), mean(y)
        vx, vy = mean(x * x) - mx * mx, mean(y * y) - my * my
        cov = mean(x * y) - mx * my
        top = (2 * mx * my + 1e-4) * (2 * cov + 9e-4)
        values.append((top / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))).mean())
    return float(np.mean(values))


@pytest.mark.parametrize("seed", range(4))
def test_equals_independent_formulas(seed):
    a, b = pictures(seed)
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    assert metrics.ssim(x, y) == pytest.approx(reference_ssim(a, b), abs=1e-9)
    assert metrics.psnr(x, y) == pytest.approx(-10 * math.log10(np.mean((a - b) ** 2)), abs=1e-9)


@pytest.mark.parametrize(("difference", "decibels"), [(0.1, 20.0), (1.0, 0.0), (0.001, 60.0)])
def test_known_psnr(difference, decibels):
    a = torch.zeros(16, 16, 3, dtype=torch.float64)
    assert metrics.psnr(a, a + difference) == pytest.approx(decibels)


def test_known_ssim():
    black, white = torch.zeros(16, 16, 3), torch.ones(16, 16, 3)
    assert metrics.ssim(black, white) == pytest.approx(1e-4 / (1 + 1e-4), rel=1e-6)


def test_identical():
    a = torch.rand(16, 16, 3)
    assert metrics.psnr(a, a.clone()) == math.inf
    assert metrics.picture_metrics(a, a.clone(), with_lpips=False) == {
        "identical": True,
        "psnr": None,
        "ssim": 1.0,
        "lpips": None,
    }
    other = a.clone()
    other[0, 0, 0] = 1 - other[0, 0, 0]
    assert metrics.picture_metrics(a, other, with_lpips=False)["identical"] is False


@given(st.integers(0, 10_000), st.floats(0.01, 0.5))
def test_properties(seed, noise):
    a, b = map(torch.from_numpy, pictures(seed, (13, 12, 2), noise))
    assert metrics.psnr(a, b) == pytest.approx(metrics.psnr(b, a))
    assert metrics.ssim(a, b) == pytest.approx(metrics.ssim(b, a))
    assert -1 <= metrics.ssim(a, b) < 1
    assert metrics.ssim(a, a) == pytest.approx(1)
    assert metrics.ssim(a.flip(1), b.flip(1)) == pytest.approx(metrics.ssim(a, b))


def test_batch_is_mean_of_its_pictures():
    first, second = pictures(1), pictures(2)
    a, b = (torch.from_numpy(np.stack(pair)) for pair in zip(first, second, strict=True))
    single = [metrics.ssim(a[i], b[i]) for i in range(2)]
    assert metrics.ssim(a, b) == pytest.approx(sum(single) / 2)


@pytest.mark.parametrize(
    ("a", "b", "told"),
    [
        (
            torch.zeros(16, 16, 3),
            torch.zeros(16, 15, 3),
            r"one shape.*\(16, 16, 3\).*\(16, 15, 3\)",
        ),
        (torch.full((16, 16, 3), math.nan), torch.zeros(16, 16, 3), r"\[0, 1\].*nan"),
        (torch.full((16, 16, 3), 255.0), torch.zeros(16, 16, 3), r"\[0, 1\].*255"),
        (torch.zeros(16, 16, 3, dtype=torch.uint8),) * 2 + ("floats",),
        (torch.zeros(16, 16), torch.zeros(16, 16), r"\[H, W, C\]"),
        (torch.zeros(0, 16, 3), torch.zeros(0, 16, 3), r"\[H, W, C\]"),
    ],
)
def test_unusable_pictures(a, b, told):
    for measure in (metrics.psnr, metrics.ssim):
        with pytest.raises(ValueError, match=told):
            measure(a, b)


def test_too_small_for_the_window():
    with pytest.raises(ValueError, match="at least 11 x 11"):
        metrics.ssim(torch.zeros(10, 20, 3), torch.zeros(10, 20, 3))


def test_lpips_tells_how_to_install(monkeypatch):
    metrics.lpips_network.cache_clear()
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ImportError, match=r"pip install 'teacache-studio\[metrics\]'"):
        metrics.lpips(torch.zeros(16, 16, 3), torch.zeros(16, 16, 3))
    with pytest.raises(ValueError, match="alex, vgg or squeeze"):
        metrics.lpips(torch.zeros(16, 16, 3), torch.zeros(16, 16, 3), backbone="resnet")


def test_a_long_film_is_compared_picture_by_picture(monkeypatch):
    """In float64 at once, the means of 81 frames at 720p would take 36 GB."""
    a, b = (torch.from_numpy(value).float() for value in pictures(3, (6, 24, 31, 3)))
    each = [metrics.ssim(x, y) for x, y in zip(a, b, strict=True)]
    sizes = []
    blur = metrics.blur
    monkeypatch.setattr(metrics, "blur", lambda planes: sizes.append(len(planes)) or blur(planes))
    assert metrics.ssim(a, b) == pytest.approx(sum(each) / 6, abs=1e-12)
    assert set(sizes) == {3}
