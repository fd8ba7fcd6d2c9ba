"""Compare Images, called as ComfyUI calls it."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from node_calls import prepared


@pytest.fixture
def compare(pack, server, monkeypatch, tmp_path):
    import folder_paths

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    node = prepared("TeaCacheCompareImages")

    def call(a, b):
        widgets = {"amplify": 8.0, "label_a": "without", "label_b": "with"}
        return node.EXECUTE_NORMALIZED(image_a=a, image_b=b, **widgets)

    return call


def test_identical_pictures(compare):
    picture = torch.rand(1, 32, 48, 3, generator=torch.Generator().manual_seed(1))
    output = compare(picture, picture)
    image, text = output.result
    assert image.shape[0] == 1 and image.shape[2] > 3 * 48
    assert text.startswith("identical · SSIM 1.0000 · ")
    assert output.ui["text"] == (text,) and len(output.ui["images"]) == 1


def test_a_line_and_a_picture_for_each_pair(compare):
    black, grey = torch.zeros(2, 32, 32, 3), torch.zeros(2, 32, 32, 3)
    grey[0] += 0.1
    image, text = compare(black, grey).result
    first, second = text.splitlines()
    assert image.shape[0] == 2
    assert first.startswith("PSNR 20.00 dB") and second.startswith("identical")


def test_lpips_is_measured_or_says_how(compare):
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    _, text = compare(picture, picture.flip(1)).result
    last = text.split(" · ")[-1]
    if importlib.util.find_spec("lpips") is None:
        assert "pip install" in last
    else:
        assert last.startswith("LPIPS") or "urlopen" in last  # its weights come from the network


def test_pictures_too_small_for_ssim(compare):
    _, text = compare(torch.zeros(1, 8, 8, 3), torch.full((1, 8, 8, 3), 0.1)).result
    assert "SSIM " not in text and text.startswith("PSNR 20.00 dB")


def test_pictures_of_two_sizes_are_refused_by_name(compare):
    with pytest.raises(ValueError, match=r"image_b: .* 1 of 32 x 32 .* not 1 of 16 x 32"):
        compare(torch.zeros(1, 32, 32, 3), torch.zeros(1, 32, 16, 3))
