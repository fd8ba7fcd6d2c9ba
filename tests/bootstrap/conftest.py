"""The set-up in an empty folder in place of the repository."""

import sys
from pathlib import Path

import pytest
from paths import ROOT

sys.path.append(str(ROOT))

from bootstrap import paths


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The set-up's root is an empty folder with its own requirement files."""
    root = tmp_path / "root"
    requirements = root / "requirements"
    requirements.mkdir(parents=True)
    for name in ("torch", "base", "nodeps", "test", "checks"):
        (requirements / f"{name}.txt").write_text(f"{name}==1\n")
    monkeypatch.setattr(paths, "ROOT", root)
    monkeypatch.setattr(paths, "REQUIREMENTS", requirements)
    monkeypatch.setattr(paths, "COMFYUI", root / ".comfyui")
    return root
