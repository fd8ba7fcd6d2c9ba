"""`teacache run TEMPLATE --cache`: the editor's own templates, accelerated without the editor.

Tiny models with random weights stand in for those that the templates load, in few pixels.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from official_templates import template_files
from paths import ROOT, TESTS

FILES = template_files()
pytestmark = pytest.mark.skipif(not FILES, reason="comfyui-workflow-templates is not installed")

SIZE = ("width=64", "height=64")
EXPERTS = (
    *("81.steps=20", "81.start_at_step=0", "81.end_at_step=10"),
    *("78.steps=20", "78.start_at_step=10", "78.end_at_step=20"),
)
"""Ten steps for each of two samplers."""
OLDER = {
    "flux_dev_full_text_to_image": ("flux1", [f"27.{size}" for size in SIZE], [["31"]]),
    "video_wan2_2_14B_t2v": (
        "wan21",
        [*(f"74.{size}" for size in (*SIZE, "length=5")), *EXPERTS],
        [["81"], ["78"]],
    ),
    "02_qwen_Image_edit_subgraphed": (
        "qwen_image",
        [*(f"115:112.{size}" for size in SIZE), "115:3.steps=20"],
        [["115:3"]],
    ),
}
NEWER = {
    "flux_dev_full_text_to_image": (
        "flux1",
        [f"194:48.{size}" for size in SIZE],
        [["194:50"]],
    ),
    "video_wan2_2_14B_t2v": (
        "wan21",
        [f"128:{name}" for name in (*(f"74.{size}" for size in (*SIZE, "length=5")), *EXPERTS)],
        [["128:81"], ["128:78"]],
    ),
    "image_qwen_image_edit_2509": ("qwen_image", ["433:3.steps=20"], [["433:3"]]),
}
"""{template of older or newer packages: (tiny model, settings, for every inserted node those that
sample with it)}."""
CASES = OLDER if OLDER.keys() <= FILES.keys() else NEWER


@pytest.mark.parametrize("name", CASES)
def test_a_template_runs_with_the_cache(comfy_dir: Path, tmp_path: Path, name: str) -> None:
    model, settings, expected = CASES[name]
    report = tmp_path / "report.json"
    options = [option for setting in settings for option in ("--set", setting)]
    command = [
        *(sys.executable, TESTS / "support" / "stand_ins.py", model, FILES[name], *options),
        *("--cache", "--out", tmp_path, "--report", report),
    ]
    path = os.pathsep.join(map(str, (ROOT, TESTS / "support")))
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"COMFYUI_DIR": str(comfy_dir), "PYTHONPATH": path},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    data: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    inserted = data["cache"]["inserted"]
    found: dict[str, list[str]] = {}
    for run in data["runs"]:
        found.setdefault(run["node"], []).append(run["sampled_by"])
        assert run["skipped"] > 0, f"{run['sampled_by']}: {run['summary']}"
        assert run["computed"] + run["skipped"] == run["evaluations"]
        assert run["summary"] in done.stdout
    assert found == {
        each["node"]: samplers for each, samplers in zip(inserted, expected, strict=True)
    }
    for each, samplers in zip(inserted, expected, strict=True):
        line = f"Apply TeaCache put in as node {each['node']}, between {each['source']} and "
        assert line in done.stderr
        assert [consumer.split()[0] for consumer in each["consumers"]] == samplers
    assert data["files"]
