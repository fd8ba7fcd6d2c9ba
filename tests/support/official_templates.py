"""The editor's own templates, as the packages comfyui-workflow-templates-* install them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest


def template_files() -> dict[str, Path]:
    """The files of the installed templates by name; empty if none are installed.

    Newer packages keep them in `…_json`, older ones beside the pictures of their kind.
    """
    found: dict[str, Path] = {}
    for part in ("json", "media_image", "media_video", "media_other", "media_api"):
        spec = importlib.util.find_spec(f"comfyui_workflow_templates_{part}")
        for folder in (spec and spec.submodule_search_locations) or ():
            found |= {file.stem: file for file in Path(folder).glob("templates/*.json")}
    return dict(sorted(found.items()))


def template(name: str) -> dict[str, Any]:
    """A template's JSON; skips the test where the templates are not installed."""
    files = template_files()
    if not files:
        pytest.skip("comfyui-workflow-templates is not installed")
    data: dict[str, Any] = json.loads(files[name].read_text(encoding="utf-8"))
    return data


def template_names() -> list[str]:
    """The names of the templates that are workflows."""
    files = template_files().items()
    return [name for name, file in files if '"nodes"' in file.read_text(encoding="utf-8")]
