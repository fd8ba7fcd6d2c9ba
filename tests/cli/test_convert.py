"""`teacache convert`: files of the editor become API graphs; bad input is one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from paths import ROOT
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from teacache.cli.main import main

EDITOR, API = ROOT / "workflows" / "quickstart.json", ROOT / "workflows" / "api" / "quickstart.json"


def test_a_file_of_the_editor_becomes_its_api_graph(comfy_dir):
    command = [sys.executable, "-m", "teacache", "convert", EDITOR, "--comfyui", comfy_dir]
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    result = subprocess.run(
        command, capture_output=True, encoding="utf-8", cwd=ROOT, env=env, check=False
    )
    assert result.returncode == 0, result.stderr
    converted = json.loads(result.stdout)
    for node, entry in json.loads(API.read_text(encoding="utf-8")).items():
        assert converted[node]["class_type"] == entry["class_type"]
        assert converted[node]["inputs"].items() >= entry["inputs"].items()


def test_a_graph_in_api_format_needs_no_comfyui(tmp_path, capsys):
    out = tmp_path / "new" / "graph.json"
    nowhere = ["--comfyui", str(tmp_path / "none")]
    assert main(["convert", str(API), str(out), *nowhere]) == 0
    graph = json.loads(API.read_text(encoding="utf-8"))
    assert json.loads(out.read_text(encoding="utf-8")) == graph
    assert main(["convert", str(API), *nowhere]) == 0
    assert json.loads(capsys.readouterr().out) == graph


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "no such file"),
        ("{", "is not complete JSON"),
        ("[]", "a workflow is a JSON object, not a list"),
        ('{"1": 5}', "Export (API)"),
    ],
)
def test_what_is_no_workflow(tmp_path, capsys, text, line):
    path = tmp_path / "bad.json"
    if text is not None:
        path.write_text(text)
    assert main(["convert", str(path)]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert "bad.json" in message
    assert line in message


def test_out_that_is_a_folder(tmp_path, capsys):
    assert main(["convert", str(API), str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message == f"teacache: {tmp_path}: is a folder; name a file\n"


def test_the_prompt_in_a_picture(tmp_path, capsys):
    info = PngInfo()
    info.add_text("prompt", API.read_text(encoding="utf-8"))
    picture = tmp_path / "picture.png"
    Image.new("RGB", (4, 4)).save(picture, pnginfo=info)
    assert main(["convert", str(picture)]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(API.read_text(encoding="utf-8"))


def test_a_missing_comfyui(tmp_path, capsys):
    assert main(["convert", str(EDITOR), "--comfyui", str(tmp_path / "none")]) == 2
    assert "--comfyui: no such folder" in capsys.readouterr().err
