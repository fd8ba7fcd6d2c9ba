"""Calibrate TeaCache, called and queued as ComfyUI does, on a tiny model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny_models
from node_calls import prepared
from paths import ROOT

STEPS = 8
LEARNED = "Learned the usual errors of this model from one uncached run; nothing was tried."


@pytest.fixture
def calibrate(pack: ModuleType, server: Any, tmp_path: Path, monkeypatch: Any) -> Any:
    """Calls the node; gives its table, and the profile that it saved."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    node = prepared("TeaCacheCalibrate")
    inputs = {
        "model": tiny_models.build("sd3"), "negative": tiny_models.cond("sd3", 9),
        "positive": tiny_models.cond("sd3", 1), "positive_2": tiny_models.cond("sd3", 2),
        "latent_image": {"samples": tiny_models.latent("sd3", 1)}, "seed": 0, "steps": STEPS,
        "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "seeds": 1, "trials": 0,
        "overwrite": False, "name": "mine",
    }  # fmt: skip

    def call(folder: Path, **changed: Any) -> tuple[str, dict[str, Any]]:
        _, picture, table = node.EXECUTE_NORMALIZED(**inputs, **changed).result
        assert picture.shape == (1, 380, 1040, 3)
        return table, json.loads((folder / "mine.json").read_text(encoding="utf-8"))

    return call


def test_quick_learns_from_the_first_prompt_alone(calibrate: Any, profile_folder: Path) -> None:
    table, saved = calibrate(profile_folder, quick=True)
    assert LEARNED in table.splitlines() and "1 run" in table.splitlines()[0]
    assert saved["made"]["cases"] == ["prompt 1, seed 0"] and saved["plans"] == []
    assert len(saved["rates"]) == STEPS


def test_a_graph_saved_before_quick_was_there_is_calibrated_in_full(
    calibrate: Any, profile_folder: Path
) -> None:
    table, saved = calibrate(profile_folder)
    assert "speed-up  computed" in table and saved["plans"] and saved["default"] is not None
    assert saved["made"]["cases"] == ["prompt 1, seed 0", "prompt 2, seed 1"]


@pytest.mark.parametrize("inputs", [{}, {"quick": True}, {"quick": False}])
def test_a_queued_graph_is_valid_with_and_without_quick(
    pack: ModuleType, server: Any, profile_folder: Path, inputs: dict[str, Any]
) -> None:
    import execution

    graph = json.loads((ROOT / "workflows" / "api" / "calibrate.json").read_text())
    (node,) = [each for each in graph.values() if each["class_type"] == "TeaCacheCalibrate"]
    assert "quick" not in node["inputs"]
    node["inputs"].update(inputs)
    for each in graph.values():
        if each["class_type"] == "EmptySD3LatentImage":  # core: the extra ones may not be loaded
            each["class_type"] = "EmptyLatentImage"
    valid, _, _, errors = asyncio.run(execution.validate_prompt("a", graph, None))
    assert (valid, errors) == (True, {})
