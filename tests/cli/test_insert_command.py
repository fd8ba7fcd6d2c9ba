"""`teacache insert` and `teacache run --cache`, run as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

from teacache.cli.main import main
from teacache.workflows.edits import uncached
from teacache.workflows.insertion_editor import remove_from_file
from teacache.workflows.selection import APPLY

EDITOR, API = ROOT / "workflows" / "quickstart.json", ROOT / "workflows" / "api" / "quickstart.json"


def read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


@pytest.fixture
def plain(tmp_path: Path) -> dict[str, Path]:
    """The quick start without the cache, in both formats."""
    api = uncached(read(API))
    editor = read(EDITOR)
    remove_from_file(editor, "quickstart.json")
    files = {"api": tmp_path / "api.json", "editor": tmp_path / "editor.json"}
    for name, data in (("api", api), ("editor", editor)):
        files[name].write_text(json.dumps(data), encoding="utf-8")
    return files


def teacache(
    comfy_dir: Path, *arguments: Any, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {"COMFYUI_DIR": str(comfy_dir), "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    return subprocess.run(
        [sys.executable, "-m", "teacache", *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | environment | variables,
        cwd=ROOT,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("name", ["api", "editor"])
def test_in_and_out_again(
    comfy_dir: Path, tmp_path: Path, plain: dict[str, Path], name: str, capsys: Any
) -> None:
    out, back = tmp_path / "new" / "cached.json", tmp_path / "back.json"
    done = teacache(comfy_dir, "insert", plain[name], out, "--cache", "balanced")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "Apply TeaCache put in as node " in done.stderr
    assert "between 1 (UNETLoader, 'Demo model') and 7 (KSampler, 'Sampler')" in done.stderr
    data = read(out)
    if name == "api":
        (made,) = [node for node in data.values() if node["class_type"] in APPLY]
        assert made["inputs"]["preset"] == "balanced" and made["inputs"]["model"] == ["1", 0]
    else:
        (made,) = [node for node in data["nodes"] if node["type"] in APPLY]
        assert "balanced" in made["widgets_values"]
    assert main(["insert", str(out), str(back), "--remove"]) == 0
    assert capsys.readouterr().err.startswith("taken out: ")
    if name == "api":
        assert read(back) == read(plain[name])
    else:
        nodes = [(node["id"], node["type"]) for node in read(back)["nodes"]]
        assert nodes == [(node["id"], node["type"]) for node in read(plain[name])["nodes"]]
        assert sorted(read(back)["links"]) == sorted(read(plain[name])["links"])


def test_a_file_that_has_one_comes_out_as_it_went_in(comfy_dir: Path) -> None:
    done = teacache(comfy_dir, "insert", EDITOR)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == read(EDITOR)
    assert "has its cache and is left as it is: 2 (ApplyTeaCache" in done.stderr


@pytest.mark.parametrize("option", [True, False], ids=["option", "environment"])
def test_run_with_the_cache(
    comfy_dir: Path, tmp_path: Path, plain: dict[str, Path], option: bool
) -> None:
    report = tmp_path / "report.json"
    arguments = ["run", plain["api"], "--set", "Sampler.steps=20", "--out", tmp_path]
    arguments += ["--report", report, *(["--cache", "2.0x"] if option else [])]
    variables = {
        "DIFFUSION_CACHE_BACKEND": "none" if option else "tea_cache",
        "DIFFUSION_CACHE_CONFIG": '{"preset": "2.0x"}',
    }
    done = teacache(comfy_dir, *arguments, **variables)
    assert done.returncode == 0, done.stderr
    data = read(report)
    (inserted,) = data["cache"]["inserted"]
    assert inserted["source"] == "1 (UNETLoader, 'Demo model')"
    assert inserted["consumers"] == ["7 (KSampler, 'Sampler')"]
    (run,) = data["runs"]
    assert (run["node"], run["computed"], run["skipped"]) == (inserted["node"], 10, 10)
    line = f"Apply TeaCache put in as node {inserted['node']}, between 1 (UNETLoader"
    assert line in done.stderr


def test_a_graph_that_samples_nothing(comfy_dir: Path, tmp_path: Path) -> None:
    workflow = tmp_path / "w.json"
    image = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}
    image["inputs"] |= {"color": 0}
    save = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    workflow.write_text(json.dumps({"1": image, "2": save}))
    done = teacache(comfy_dir, "run", workflow, "--cache", "--out", tmp_path)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("teacache: w.json: no node of the workflow samples a model")
    asked = {"DIFFUSION_CACHE_BACKEND": "tea_cache"}
    done = teacache(comfy_dir, "run", workflow, "--out", tmp_path, **asked)
    assert done.returncode == 0, done.stderr
    assert "DIFFUSION_CACHE_BACKEND: no node of w.json samples a model" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["insert", "none.json"], "none.json: no such file"),
        (["insert", str(API), "--cache", "much"], "--cache: must be a threshold such as 0.2"),
        (["run", "--cache", str(API)], "or a JSON object of settings, not "),
        (["insert", str(API), "--remove", "--cache"], "--cache: has no meaning with --remove"),
        (["insert", str(API), str(ROOT)], "is a folder; name a file"),
        (["run", str(API), "--cache", '{"x": 1}'], "--cache: unknown setting 'x'"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], line: str, capsys: Any) -> None:
    assert main(arguments) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("teacache: ") and line in message


def test_a_wrong_backend_names_what_is_allowed(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("DIFFUSION_CACHE_BACKEND", "easy_cache")
    assert main(["run", str(API)]) == 2
    assert capsys.readouterr().err == (
        "teacache: DIFFUSION_CACHE_BACKEND: unknown backend 'easy_cache'; did you mean "
        "'tea_cache'? known: tea_cache, none\n"
    )


def test_nothing_to_take_out(tmp_path: Path, plain: dict[str, Path], capsys: Any) -> None:
    for file in plain.values():
        assert main(["insert", str(file), "--remove"]) == 2
        assert "no Apply TeaCache in the workflow" in capsys.readouterr().err
