"""`teacache calibrate` and `teacache profiles`, run as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from calibrations import calibration_named
from paths import ROOT, TESTS
from PIL import Image

from teacache.cli.calibrate import node_settings
from teacache.cli.main import main
from teacache.profiles.store import ProfileStore
from teacache.workflows.edits import calibration_graph
from teacache.workflows.graph import as_graph, read_workflow

QUICKSTART = ROOT / "workflows" / "api" / "quickstart.json"
COMPARISON = ROOT / "workflows" / "api" / "ab_comparison.json"

REFUSED = [
    ([], "name either a workflow file or a pipeline with --model"),
    ([str(QUICKSTART), "--model", "demo"], "name either a workflow file or a pipeline"),
    (["--model", "demo"], "--model: needs --prompt TEXT, once or more"),
    ([str(QUICKSTART), "--steps", "20"], "--steps: needs --model"),
    ([str(QUICKSTART), "--seeds", "0"], "--seeds: must be a whole number from 1 to 32"),
    ([str(QUICKSTART), *["--prompt", "x"] * 9], "--prompt: at most 8, not 9"),
    ([str(QUICKSTART), "--quick", "--trials", "3"], "--quick: tries no plans: leave out --trials"),
    ([str(QUICKSTART), "--quick", "--seeds", "2"], "--quick: takes one run: leave out --seeds"),
    (
        ["--model", "demo", "--quick", "--prompt", "x", "--prompt", "y"],
        "--quick: takes one --prompt, not 2",
    ),
    (["missing.json"], "missing.json: no such file"),
    (["--model", "demo", "--prompt", "x", "--name", "../x"], "profile name '../x': must be"),
    (["--model", "demo", "--prompt", "x", "--name", "flux1-dev"], "a shipped profile has it"),
    (["--model", "demo", "--prompt", "x", "--steps", "7"], "steps: 7 are too few to calibrate"),
]


@pytest.mark.parametrize(("arguments", "told"), REFUSED)
def test_bad_input_is_one_line_and_nothing_is_written(
    arguments: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    profile_folder: Path,
) -> None:
    assert main(["calibrate", *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("teacache: ") and told in error
    assert not list(profile_folder.glob("*.json")) and not (tmp_path / "out").exists()


def arguments_of(**changed: Any) -> Any:
    from teacache.cli.main import build_parser

    args = build_parser().parse_args(["calibrate", str(QUICKSTART)])
    for name, value in changed.items():
        setattr(args, name, value)
    return args


def test_a_workflow_becomes_its_own_calibration() -> None:
    graph = as_graph(read_workflow(QUICKSTART), "quickstart.json")
    (sampler,) = [n for n in graph if graph[n]["class_type"] == "KSampler"]
    settings = graph[sampler]["inputs"]
    prompts = ["a fox", "an owl", "a red apple"]
    made = calibration_graph(
        graph, "quickstart.json", prompts, node_settings(arguments_of(seeds=2))
    )
    node = made["calibration"]
    assert node["class_type"] == "TeaCacheCalibrate" and node["inputs"]["seeds"] == 2
    for name in ("steps", "cfg", "sampler_name", "scheduler"):
        assert node["inputs"][name] == settings[name]
    kinds = [data["class_type"] for data in made.values()]
    assert not {"KSampler", "ApplyTeaCache", "SaveImage"} & set(kinds)
    texts = [
        made[node["inputs"][name][0]]["inputs"]["text"]
        for name in ("positive", "positive_2", "positive_3")
    ]
    assert texts == prompts
    plain = calibration_graph(graph, "quickstart.json", [], node_settings(arguments_of()))
    assert plain["calibration"]["inputs"]["positive"] == settings["positive"]


def test_a_workflow_without_one_sampler_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", str(COMPARISON)]) == 2
    assert "one KSampler is needed" in capsys.readouterr().err


def test_the_demo_pipeline_is_calibrated_and_its_profile_used(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, profile_folder: Path
) -> None:
    demo = ["--model", "demo", "--prompt", "a fox", "--steps", "10"]
    quick = ["--trials", "0", "--name", "mine", "--out", str(tmp_path)]
    assert main(["calibrate", *demo, *quick]) == 0
    shown = capsys.readouterr().out
    assert "2.00x   5 of 10" in shown and str(profile_folder / "mine.json") in shown
    with Image.open(tmp_path / "mine.png") as picture:
        assert picture.size == (1040, 380)
    assert [path.name for path in profile_folder.iterdir()] == ["mine.json"]
    data = json.loads((profile_folder / "mine.json").read_text(encoding="utf-8"))
    assert data["made"]["cases"] == ["a fox, seed 0"] and data["made"]["host"] == "diffusers"

    assert main(["calibrate", *demo, *quick]) == 2, "the name is taken"
    assert "profile 'mine' exists" in capsys.readouterr().err

    cache = ["--cache-backend", "tea_cache", "--cache-config", '{"preset": "2.0x"}']
    assert main(["generate", *demo, *cache, "--out", str(tmp_path / "made")]) == 0
    report = json.loads((tmp_path / "made" / "report.json").read_text(encoding="utf-8"))
    run = report["run"]
    assert run["computed"] == 5 and "profile mine: 5 of 10 steps planned" in run["evidence"]


LEARNED = "Learned the usual errors of this model from one uncached run; nothing was tried."


def test_the_demo_pipeline_is_learned_in_one_run_and_a_wanted_speedup_goes_by_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, profile_folder: Path
) -> None:
    demo = ["--model", "demo", "--prompt", "a fox", "--steps", "30"]
    out = ["--name", "quick", "--out", str(tmp_path)]
    assert main(["calibrate", *demo, "--quick", *out]) == 0
    shown = capsys.readouterr().out
    assert LEARNED in shown.splitlines() and "speed-up  computed" not in shown
    with Image.open(tmp_path / "quick.png") as picture:
        assert picture.size == (1040, 380)
    data = json.loads((profile_folder / "quick.json").read_text(encoding="utf-8"))
    assert (data["plans"], data["curve"], data["default"]) == ([], [], None)
    assert len(data["rates"]) == 30 and data["made"]["cases"] == ["a fox, seed 0"]

    config = '{"preset": "2.0x", "profile": "quick"}'
    cache = ["--cache-backend", "tea_cache", "--cache-config", config]
    assert main(["generate", *demo, *cache, "--out", str(tmp_path / "made")]) == 0
    run = json.loads((tmp_path / "made" / "report.json").read_text(encoding="utf-8"))["run"]
    assert run["computed"] == 15
    assert "profile quick: forecast, 15 of 30 steps computed" in run["evidence"]


def test_a_workflow_is_learned_in_one_run(
    comfy_dir: Path, tmp_path: Path, profile_folder: Path
) -> None:
    graph = json.loads(QUICKSTART.read_text(encoding="utf-8"))
    (settings,) = [n["inputs"] for n in graph.values() if n["class_type"] == "KSampler"]
    settings["steps"] = 10
    short = tmp_path / "short.json"
    short.write_text(json.dumps(graph), encoding="utf-8")
    command = [sys.executable, "-m", "teacache", "calibrate", str(short), "--quick"]
    done = subprocess.run(
        [*command, "--name", "quick", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env={**os.environ, "COMFYUI_DIR": str(comfy_dir), "PYTHONPATH": str(ROOT)},
        cwd=TESTS / "data",  # where no other `teacache` is
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert LEARNED in done.stdout.splitlines()
    data = json.loads((profile_folder / "quick.json").read_text(encoding="utf-8"))
    assert (len(data["rates"]), data["plans"], data["made"]["host"]) == (10, [], "ComfyUI")


def test_profiles_are_listed_shown_renamed_exported_imported_and_deleted(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, profile_folder: Path
) -> None:
    store = ProfileStore(profile_folder)

    def profiles(*arguments: str, status: int = 0) -> str:
        assert main(["profiles", *arguments, "--diffusers"]) == status
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    assert "no profiles yet" in profiles("list")
    assert main(["profiles", "--diffusers", "list"]) == 0, "before the action as well"
    assert "no profiles yet" in capsys.readouterr().out
    store.save(calibration_named("mine"))
    assert "mine  sd3" in profiles("list") and "Profile mine" in profiles("show", "mine")
    profiles("rename", "mine", "yours")
    copy = tmp_path / "copy.json"
    profiles("export", "yours", str(copy))
    assert "exists: choose another file" in profiles("export", "yours", str(copy), status=2)
    profiles("delete", "yours")
    assert store.names() == []
    profiles("import", str(copy))
    assert store.names() == ["yours"]
    assert "did you mean 'yours'" in profiles("show", "your", status=2)
    copy.write_text("{}", encoding="utf-8")
    assert "kind must be 'calibration'" in profiles("import", str(copy), status=2)
