"""A tiny photos model, and photographs to train it on."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from training import photos


@pytest.fixture
def teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of a model of two blocks, all of them random."""
    for key in ("num_layers", "num_single_layers", "num_attention_heads"):
        monkeypatch.setitem(photos.TRANSFORMER, key, 1)
    generator = torch.Generator().manual_seed(1)
    parts = {"transformer": photos.new_transformer(), "text": photos.TextTable()}
    weights = {
        f"{part}.{name}": torch.randn(value.shape, generator=generator) / 8
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }
    photos.save_model(tmp_path / "teacher.safetensors", weights, step=1, seconds=1)
    return tmp_path / "teacher.safetensors"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A zip of three photographs."""
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as file:
        for number, name in enumerate(("hat", "shoes", "skirt")):
            picture = io.BytesIO()
            Image.new("RGB", (80, 72), (60 * number, 90, 200)).save(picture, "JPEG")
            file.writestr(f"train/{name}/{number}.jpg", picture.getvalue())
    return tmp_path / "photos.zip"
