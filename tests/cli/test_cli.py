"""The command: input refused before ComfyUI is loaded, and how settings are parsed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from paths import ROOT

from teacache.cli import main as cli
from teacache.errors import UserError
from teacache.files import write_atomically, write_json
from teacache.hosts.comfyui.headless import boot as headless
from teacache.workflows.assignments import Assignment, assign, parse_assignment, parse_value
from teacache.workflows.graph import as_graph, find_node

QUICKSTART = ROOT / "workflows" / "api" / "quickstart.json"


@pytest.fixture(autouse=True)
def no_comfyui(monkeypatch):
    """Whatever would load ComfyUI fails instead."""
    monkeypatch.setenv("COMFYUI_DIR", "/no/such/comfyui")


def quickstart():
    return as_graph(json.loads(QUICKSTART.read_text()), "quickstart.json")


def changed(**nodes):
    return json.dumps(json.loads(QUICKSTART.read_text()) | nodes)


IMAGE = {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}}

FILES = [
    (None, "no such file"),
    ("", "is empty"),
    (QUICKSTART.read_text()[:200], "not complete JSON"),
    ("[1]", "JSON object, not a list"),
    ("{}", "no nodes"),
    ('{"1": {"inputs": {}}}', "'1' is no node of an API-format workflow"),
    ('{"1": 5}', "Export (API)"),
    ('{"1": {"class_type": "A", "inputs": []}}', "node 1 (A): inputs must be an object"),
    (
        changed(**{"10": {"class_type": "SaveImage", "inputs": {"images": ["99", 0]}}}),
        "node 10 (SaveImage), input images: linked to node 99, which is not in the workflow",
    ),
    (
        json.dumps({"1": IMAGE, "2": {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}}}),
        "linked in a circle: 1 (SaveImage), 2 (ImageInvert)",
    ),
]


@pytest.mark.parametrize(("content", "message"), FILES)
def test_bad_files(content, message, tmp_path, capsys):
    path = tmp_path / "workflow.json"
    if content is not None:
        path.write_text(content)
    assert_refused(["run", str(path)], message, capsys)
    assert sorted(p.name for p in tmp_path.iterdir()) == (
        [path.name] if content is not None else []
    )


COMMANDS = [
    ([], "required: COMMAND"),
    (["rum"], "invalid choice: 'rum'"),
    (["run"], "required: WORKFLOW"),
    (["run", str(QUICKSTART)], "COMFYUI_DIR: no such folder"),
    (["run", str(QUICKSTART), "--comfyui", "/no/such"], "--comfyui: no such folder: /no/such"),
    (["run", str(QUICKSTART), "--comfyui", str(ROOT)], "holds no ComfyUI"),
    (["run", str(QUICKSTART), "--set", "Sampler"], "NODE.INPUT=VALUE"),
    (["run", str(QUICKSTART), "--set", "Sampler.=3"], "NODE.INPUT=VALUE"),
    (["run", str(QUICKSTART), "--set", "Samper.seed=3"], "no node 'Samper'"),
    (["run", str(QUICKSTART), "--set", "Samper.seed=3"], "did you mean 'Sampler'?"),
    (["run", str(QUICKSTART), "--set", "CLIPTextEncode.text=x"], "names 2 nodes (4, 5)"),
    (["demo"], "COMFYUI_DIR: no such folder"),
    (["demo", "--steps", "0"], "--steps: must be a whole number from 1 to 10000, not '0'"),
    (["demo", "--steps", "2.5"], "--steps: must be a whole number"),
    (["demo", "--seed", "lucky"], "--seed: must be a whole number from 0"),
    (["demo", "--seed", "-1"], "--seed: must be a whole number from 0"),
    (["demo", "--threshold", "nan"], "--threshold: must be a number from 0 to 100, not 'nan'"),
    (["demo", "--threshold", "-0.1"], "--threshold: must be a number"),
    (["demo", "--threshold", "inf"], "--threshold: must be a number"),
    (["demo", "--threshold", "low"], "--threshold: must be a number"),
    (["demo", "--repeats", "0"], "--repeats: must be a whole number"),
    (["demo", "--nonsense"], "unrecognized arguments: --nonsense"),
]


@pytest.mark.parametrize(("arguments", "message"), COMMANDS)
def test_bad_arguments(arguments, message, capsys):
    assert_refused(arguments, message, capsys)


def assert_refused(arguments, message, capsys):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1 and captured.err.startswith("teacache: ")
    assert captured.out == ""


def test_too_old_comfyui(tmp_path, capsys):
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.3.74"\n')
    (tmp_path / "execution.py").touch()
    message = "ComfyUI 0.3.74 is too old; 0.3.75 is needed"
    assert_refused(["run", str(QUICKSTART), "--comfyui", str(tmp_path)], message, capsys)


BOOT = ("teacache", "hosts", "comfyui", "headless", "boot.py")


def fake_comfyui(folder):
    folder.mkdir(parents=True)
    (folder / "comfyui_version.py").write_text('__version__ = "0.3.75"\n')
    (folder / "execution.py").touch()
    return folder


def test_where_comfyui_is_looked_for(tmp_path, monkeypatch):
    given, named = fake_comfyui(tmp_path / "given"), fake_comfyui(tmp_path / "named")
    host = fake_comfyui(tmp_path / "host")
    pack = host / "custom_nodes" / "any-name"
    monkeypatch.setattr(headless, "PACK", pack)
    monkeypatch.setattr(headless, "__file__", str(pack.joinpath(*BOOT)))
    monkeypatch.setenv("COMFYUI_DIR", str(named))
    assert headless.find_comfyui(given) == given
    assert headless.find_comfyui(None) == named
    monkeypatch.delenv("COMFYUI_DIR")
    assert headless.find_comfyui(None) == host
    inside = fake_comfyui(pack / ".comfyui")
    assert headless.find_comfyui(None) == inside
    monkeypatch.setattr(headless, "PACK", tmp_path)
    monkeypatch.setattr(headless, "__file__", str(tmp_path.joinpath("a", *BOOT)))
    with pytest.raises(UserError, match=r"--comfyui DIR, or run 'python run\.py demo' once"):
        headless.find_comfyui(None)
    monkeypatch.setattr(headless, "is_checkout", lambda: False)
    with pytest.raises(UserError, match="--comfyui DIR, or set COMFYUI_DIR"):
        headless.find_comfyui(None)


def test_out_that_is_a_file(tmp_path, capsys, comfy_dir):
    file = tmp_path / "file"
    file.touch()
    arguments = ["run", str(QUICKSTART), "--comfyui", str(comfy_dir), "--out", str(file)]
    assert_refused(arguments, f"--out {file}: cannot be a folder", capsys)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["demo", "--help"], ["sweep", "--help"]]
)
def test_help_loads_no_library(arguments):
    code = (
        "import sys; from teacache.cli.main import main; status = main(sys.argv[1:]);"
        "loaded = {'torch', 'numpy', 'comfy', 'diffusers', 'PIL'} & set(sys.modules);"
        "sys.exit(f'loaded {loaded}' if loaded else status)"
    )
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ})
    assert result.returncode == 0, result.stderr
    assert "usage: teacache" in result.stdout


@pytest.mark.parametrize("name", ["7", "Sampler", "KSampler"])
def test_a_node_is_found_by_id_title_and_class(name):
    assert find_node(quickstart(), name) == "7"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sampler.seed=7", Assignment("7", "seed", "7")),
        ("Prompt.text=a=b.c", Assignment("4", "text", "a=b.c")),
        ("Prompt.text=", Assignment("4", "text", "")),
        ("A.B.steps=1", Assignment("7", "steps", "1")),
        ("10.images.1=x", Assignment("10", "images.1", "x")),
    ],
)
def test_assignments(text, expected):
    graph = quickstart()
    if text.startswith("A.B"):
        graph["7"]["_meta"]["title"] = "A.B"
    assert parse_assignment(graph, text) == expected


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("3", "INT", 3),
        ("1e2", "INT", 100),
        ("3", "FLOAT", 3),
        ("12", "STRING", "12"),
        ("1e3", "STRING", "1e3"),
        ('"12"', "STRING", "12"),
        ("true", "STRING", "true"),
        ("false", "BOOLEAN", False),
        ("euler", "COMBO", "euler"),
        ('["3", 0]', "CLIP", ["3", 0]),
    ],
)
def test_values(text, kind, value):
    parsed = parse_value(text, kind)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("2.5", "INT"),
        ("many", "INT"),
        ("true", "INT"),
        ("NaN", "FLOAT"),
        ("-Infinity", "FLOAT"),
        ("x", "FLOAT"),
        ("no", "BOOLEAN"),
        ("1", "BOOLEAN"),
    ],
)
def test_bad_values(text, kind):
    with pytest.raises(UserError, match=r"node 7 \(KSampler, 'Sampler'\), input thing: must be"):
        assign(quickstart(), Assignment("7", "thing", text), {"thing": kind})


def test_unknown_input_names_the_nearest():
    with pytest.raises(UserError, match=r"no input 'step'; did you mean 'steps'\?"):
        assign(quickstart(), Assignment("7", "step", "3"), {"seed": "INT", "steps": "INT"})


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.json"
    write_json(path, {"a": 1})

    def fail_half_way(file):
        file.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail_half_way)
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_json_has_no_infinities(tmp_path):
    write_json(tmp_path / "a.json", {"a": [float("inf"), 1.5, {"b": float("nan")}], "c": True})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"a": [None, 1.5, {"b": None}], "c": True}
