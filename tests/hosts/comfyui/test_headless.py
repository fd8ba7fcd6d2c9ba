"""Graphs in a real ComfyUI without its server, run as a user does: in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from paths import ROOT, TESTS
from PIL import Image

QUICKSTART = ROOT / "workflows" / "api" / "quickstart.json"
EDITOR = ROOT / "workflows" / "quickstart.json"


def environment(comfy_dir):
    return {**os.environ, "COMFYUI_DIR": str(comfy_dir), "PYTHONPATH": str(ROOT)}


def teacache(comfy_dir, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "teacache", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(comfy_dir),
        cwd=TESTS / "data",  # where no other `teacache` is
        timeout=300,
    )


def pixels(path):
    with Image.open(path) as picture:
        return picture.size, picture.convert("RGB").tobytes()


@pytest.fixture(scope="module")
def quickstart(comfy_dir, tmp_path_factory):
    """The quick start of 8 steps: its process, output folder and report."""
    out = tmp_path_factory.mktemp("quickstart")
    report = out / "sub" / "report.json"
    settings = ["--set", "Sampler.steps=8", "--set", "Prompt.text=dog"]
    done = teacache(comfy_dir, "run", QUICKSTART, *settings, "--out", out, "--report", report)
    assert done.returncode == 0, done.stderr
    return done, out, json.loads(report.read_text())


def test_results_on_disk(quickstart):
    done, out, report = quickstart
    assert [p.name for p in out.glob("*.png")] == ["quickstart_00001_.png"]
    assert pixels(out / "quickstart_00001_.png")[0] == (128, 128)
    assert report["status"] == "success" and report["files"] == {"10": ["quickstart_00001_.png"]}
    assert str(out / "quickstart_00001_.png") in done.stdout
    assert report["nodes"]["7"]["title"] == "Sampler" and report["nodes"]["7"]["seconds"] > 0


def test_the_caches_own_report_is_in_the_report(quickstart):
    done, _, report = quickstart
    (run,) = report["runs"]
    assert run["node"] == "2" and run["steps"] == 8 and run["family"] == "sd3"
    assert len(run["records"]) == 8 and run["outcome"] == "done"
    assert run["skipped"] == sum(record["skipped"] for record in run["records"])
    assert run["summary"] in done.stdout


def test_progress_and_a_clean_log(quickstart):
    done, _, _ = quickstart
    assert "Sampler: 100%" in done.stderr and "8/8" in done.stderr
    lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip()]
    strange = [line for line in lines if "Sampler:" not in line and "loading" not in line]
    assert strange == []


def test_a_file_of_the_editor_with_removed_values_runs_as_with_auto(
    comfy_dir, quickstart, tmp_path
):
    graph = json.loads(EDITOR.read_text())
    (node,) = [node for node in graph["nodes"] if node["type"] == "ApplyTeaCache"]
    node["widgets_values"] += ["forecast", "auto", "spectral", "blend", "auto"]
    saved = tmp_path / "quickstart.json"
    saved.write_text(json.dumps(graph))
    settings = ["--set", "Sampler.steps=8", "--set", "Prompt.text=dog"]
    done = teacache(comfy_dir, "run", saved, *settings, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("indicator=spectral", "predictor=blend"):
        assert done.stderr.count(f"TeaCache: {name} was removed: ") == 1
    (picture,) = tmp_path.glob("*.png")
    assert pixels(picture) == pixels(quickstart[1] / "quickstart_00001_.png")


def test_a_file_of_the_editor_gives_the_same_picture(comfy_dir, quickstart, tmp_path):
    settings = ["--set", "Sampler.steps=8", "--set", "Prompt.text=dog"]
    done = teacache(comfy_dir, "run", EDITOR, *settings, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    name = "quickstart_00001_.png"
    assert pixels(tmp_path / name) == pixels(quickstart[1] / name)
    (preview,) = (tmp_path / "preview").iterdir()
    assert pixels(preview)[0][0] == 960


def test_a_failing_graph_is_one_line_and_status_1(comfy_dir, tmp_path):
    graph = json.loads(QUICKSTART.read_text())
    graph["6"] = {
        "class_type": "EmptyLatentImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1},
    }
    graph["9"]["inputs"]["samples"] = ["6", 0]  # four channels for sixteen
    workflow, report = tmp_path / "w.json", tmp_path / "report.json"
    workflow.write_text(json.dumps(graph))
    done = teacache(comfy_dir, "run", workflow, "--out", tmp_path, "--report", report)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("teacache: node 9 (VAEDecode, 'Decode') failed: RuntimeError: ")
    assert "Traceback" not in done.stderr
    assert json.loads(report.read_text())["status"] == "failed"
    assert not list(tmp_path.glob("*.png"))


def test_ctrl_c(comfy_dir, tmp_path):
    report = tmp_path / "report.json"
    arguments = ["--set", "Sampler.steps=10000", "--set", "2.rel_l1_thresh=0"]
    command = [sys.executable, "-m", "teacache", "run", QUICKSTART, *arguments]
    process = subprocess.Popen(
        [*map(str, command), "--out", str(tmp_path), "--report", str(report)],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(comfy_dir),
        cwd=TESTS / "data",  # where no other `teacache` is
    )
    shown = ""
    while "step/s]" not in shown:
        letter = process.stderr.read(1)
        assert letter, shown
        shown += letter
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(timeout=60) == 130
    assert rest.rstrip().endswith("teacache: interrupted") and "Traceback" not in rest
    assert json.loads(report.read_text())["status"] == "interrupted"
    assert not list(tmp_path.glob("*.png"))


SESSION = """
import copy, json, signal, sys
from pathlib import Path
from teacache.errors import UserError
from teacache.hosts.comfyui.headless.session import Session
from teacache.hosts.comfyui.headless.boot import find_comfyui

graph, bad, out = json.load(sys.stdin)
session = Session(find_comfyui(None), Path(out))
messages = []
for node, changes in bad:
    wrong = copy.deepcopy(graph)
    wrong[node].update({k: v for k, v in changes.items() if k != "inputs"})
    wrong[node]["inputs"].update(changes.get("inputs", {}))
    try:
        session.run(wrong)
        messages.append("nothing")
    except UserError as error:
        messages.append(str(error))

def runs(**inputs):
    changed = copy.deepcopy(graph)
    changed["7"]["inputs"].update(inputs)
    steps = []
    result = session.run(changed, lambda p: steps.append((p.title, p.value, p.total)))
    return {"nodes": sorted(result.node_seconds), "steps": steps,
            "file": str(result.files["10"][0])}

results = [runs(seed=1), runs(seed=2)]
try:
    session.run(graph, lambda progress: signal.raise_signal(signal.SIGINT))
    results.append("not interrupted")
except KeyboardInterrupt:
    results.append("interrupted")
results.append(runs(seed=1))
session.keep_only(graph, ["1", "3", "8"])
results.append(runs(seed=1))

graph["7"]["inputs"]["seed"] = "5"
valid = session.validate(graph)
session.comfy.execution.validate_prompt = None  # it is not called again
pictures = [str(session.execute(valid).files["10"][0]) for _ in range(2)]
session.keep_only(graph, [])
pictures.append(str(session.execute(valid).files["10"][0]))
seeds = [graph["7"]["inputs"]["seed"], valid.graph["7"]["inputs"]["seed"]]
print(json.dumps([messages, results, pictures, seeds]))
"""

BAD = [
    ("1", {"class_type": "UNETLoadr"}, "node 1: no node type 'UNETLoadr' in this ComfyUI; did"),
    (
        "1",
        {"inputs": {"unet_name": "gone.safetensors"}},
        "node 1 (UNETLoader, 'Demo model'), input unet_name: 'gone.safetensors' is not available",
    ),
    ("1", {"inputs": {"unet_name": "gone"}}, "Available: teacache_demo.safetensors"),
    (
        "3",
        {"inputs": {"text_encoder": "gone.safetensors"}},
        "node 3 (LoadDemoTextEncoder, 'Demo text encoder'), input text_encoder: 'gone",
    ),
    ("7", {"inputs": {"steps": 0}}, "input steps: 0 is below the smallest allowed value 1"),
    ("7", {"inputs": {"steps": "many"}}, "input steps: must be a number, not 'many'"),
    ("7", {"inputs": {"steps": 2.5}}, "input steps: must be a whole number, not 2.5"),
    ("7", {"inputs": {"denoise": 1.5}}, "input denoise: 1.5 is above the largest allowed value"),
    ("7", {"inputs": {"cfg": "nan"}}, "node 7 (KSampler, 'Sampler'), input cfg: must be a finite"),
    ("7", {"inputs": {"sampler_name": "eulr"}}, "did you mean 'euler'?"),
    ("7", {"inputs": {"model": ["3", 0]}}, "input model: needs MODEL, but node 3 gives CLIP"),
    ("9", {"inputs": {"vae": ["8", 4]}}, "node 9"),
    (
        "2",
        {"inputs": {"rel_l1_thresh": -1}},
        "node 2 (ApplyTeaCache, 'Apply TeaCache'): rel_l1_thresh must be a number from 0",
    ),
    ("2", {"inputs": {"start_percent": 0.8, "end_percent": 0.2}}, "start_percent must be below"),
    (
        "2",
        {"inputs": {"profile": "zzz"}},
        "node 2 (ApplyTeaCache, 'Apply TeaCache'): unknown profile 'zzz'",
    ),
    ("10", {"class_type": "PrimitiveString", "inputs": {"value": ""}}, "no output node"),
]


@pytest.fixture(scope="module")
def session(comfy_dir, tmp_path_factory):
    """A session's message for every bad graph, and the results of its good runs."""
    graph = json.loads(QUICKSTART.read_text())
    graph["7"]["inputs"]["steps"] = 4
    out = tmp_path_factory.mktemp("session")
    bad = [(node, changes) for node, changes, _ in BAD]
    done = subprocess.run(
        [sys.executable, "-c", SESSION],
        input=json.dumps([graph, bad, str(out)]),
        capture_output=True,
        text=True,
        env=environment(comfy_dir),
        cwd=TESTS / "data",  # where no other `teacache` is
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("number", range(len(BAD)))
def test_bad_graphs_are_refused_in_one_line(session, number):
    message = session[0][number]
    assert BAD[number][2] in message
    assert "\n" not in message and "Traceback" not in message


def test_progress_is_reported_per_sampler(session):
    """Newer ComfyUI leaves out what comes too soon, but never the first and the last step."""
    (title,), steps, (total,) = map(sorted, map(set, zip(*session[1][0]["steps"], strict=True)))
    assert (title, steps[0], steps[-1], total) == ("Sampler", 1, 4, 4)
    assert session[1][0]["steps"] == [["Sampler", step, 4] for step in steps]


def test_loaded_models_stay_between_graphs(session):
    first, second = session[1][:2]
    assert {"1", "3", "8", "7"} <= set(first["nodes"])
    assert set(second["nodes"]) == {"7", "9", "10"}


def test_interrupting_leaves_the_session_usable(session):
    first, _, interrupted, again, _ = session[1]
    assert interrupted == "interrupted"
    assert pixels(again["file"]) == pixels(first["file"])
    assert again["file"] != first["file"]


def test_keep_only_forgets_the_rest(session):
    last = session[1][-1]
    assert set(last["nodes"]) == {"2", "4", "5", "6", "7", "9", "10"}
    assert pixels(last["file"]) == pixels(session[1][0]["file"])


def test_a_validated_graph_is_executed_again_and_again(session):
    _, _, pictures, seeds = session
    assert seeds == ["5", 5], "values are converted in a copy"
    assert len({pixels(picture) for picture in pictures}) == 1


def test_demo_with_the_cache_off_is_bit_identical(comfy_dir, tmp_path):
    options = ["--threshold", "0", "--steps", "6", "--repeats", "1", "--prompt", "owl"]
    done = teacache(comfy_dir, "demo", *options, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert pixels(tmp_path / "cached.png") == pixels(tmp_path / "uncached.png")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["identical"] is True and report["psnr"] is None and report["ssim"] == 1
    assert report["cached"]["skipped"] == 0 and report["prompt"] == "owl"
    assert report["speedup"] == report["uncached"]["seconds"] / report["cached"]["seconds"]
    assert "identical" in done.stdout


def test_demo(comfy_dir, tmp_path):
    options = ["--steps", "20", "--threshold", "0.3", "--seed", "3", "--repeats", "2"]
    done = teacache(comfy_dir, "demo", *options, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    names = ["cached.png", "comparison.png", "report.json", "timeline.png", "uncached.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    report = json.loads((tmp_path / "report.json").read_text())
    cached, run = report["cached"], report["run"]
    assert (cached["steps"], cached["threshold"], report["seed"]) == (20, 0.3, 3)
    assert 0 < cached["skipped"] == sum(record["skipped"] for record in run["records"])
    assert report["repeatable"] is True and report["identical"] is False
    assert 10 < report["psnr"] < 100 and 0 < report["ssim"] < 1
    assert len(report["uncached"]["all_seconds"]) == len(cached["all_seconds"]) == 2
    assert done.stderr.count("uncached: 100%") == 2 and "cached: 100%" in done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("TeaCache 0.3"))
    assert f"{report['speedup']:.2f}x" in row and f"{20 - cached['skipped']} of 20" in row


def test_the_graphs_that_come_along_have_every_input(comfy_dir, tmp_path):
    """Of the ComfyUI at hand: newer versions ask for more."""
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from teacache.hosts.comfyui.headless.session import Session\n"
        f"session = Session(Path({str(comfy_dir)!r}), Path(sys.argv[1]))\n"
        "known = session.definitions()\n"
        f"for file in sorted(Path({str(ROOT / 'workflows' / 'api')!r}).glob('*.json')):\n"
        "    for node in json.loads(file.read_text(encoding='utf-8')).values():\n"
        "        needed = known[node['class_type']]['input'].get('required', {})\n"
        "        for name in sorted(needed.keys() - node['inputs'].keys()):\n"
        "            print(file.name, node['class_type'], name)\n"
        "print('checked')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment(comfy_dir),
        cwd=TESTS / "data",  # where no other `teacache` is
        timeout=300,
    )
    assert done.stdout.split("\n") == ["checked", ""], done.stdout + done.stderr[-2000:]
