"""`teacache sweep` on workflows and pipelines, run as a user runs it."""

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

from teacache.cli.main import main
from teacache.comparison import grid_points, parse_axis
from teacache.comparison.results import gain
from teacache.config import TeaCacheConfig
from teacache.errors import ConfigError
from teacache.plots.sweep import Layout

QUICKSTART = ROOT / "workflows" / "api" / "quickstart.json"

pytestmark = pytest.mark.usefixtures("without_lpips")


W = [str(QUICKSTART)]
REFUSED = [
    ([], "name either a workflow file or a pipeline with --model"),
    ([*W, "--model", "demo"], "name either a workflow file or a pipeline"),
    (["--model", "demo"], "--model: needs --prompt TEXT"),
    ([*W, "--x", ""], "--x: write a setting and its values, such as rel_l1_thresh=0.1"),
    ([*W, "--x", "rel_l1_thresh"], "--x: write a setting and its values"),
    ([*W, "--x", "=0.1"], "--x: write a setting and its values"),
    ([*W, "--x", "predicter=reuse"], "unknown setting 'predicter'; did you mean 'predictor'?"),
    ([*W, "--x", "zzz=1"], "--x: unknown setting 'zzz'. Known: rel_l1_thresh, start_percent"),
    ([*W, "--y", "mode="], "--y: no values for mode; separate them by commas"),
    ([*W, "--thresholds", ""], "--thresholds: no values for rel_l1_thresh"),
    ([*W, "--thresholds", "0.1,,0.2"], "--thresholds: an empty value in '0.1,,0.2'"),
    ([*W, "--thresholds", "0.1,0.10"], "--thresholds: rel_l1_thresh 0.1 is listed twice"),
    ([*W, "--thresholds", "nan"], "rel_l1_thresh must be a number from 0 to 100, not nan"),
    ([*W, "--thresholds", "0.1,inf"], "rel_l1_thresh must be a number from 0 to 100, not inf"),
    ([*W, "--thresholds=-1"], "rel_l1_thresh must be a number from 0 to 100, not -1"),
    ([*W, "--thresholds", "low"], "must be a number from 0 to 100, not str 'low'"),
    ([*W, "--modes", "slow"], "--modes: mode must be one of forecast, faithful, not 'slow'"),
    ([*W, "--presets", "best"], "--presets: preset must be one of auto, faithful, quality"),
    ([*W, "--x", "max_skip=1.5"], "max_skip must be a whole number from 0"),
    ([*W, "--x", "end_percent=0"], "start_percent must be below end_percent"),
    (["--model", "demo", "--prompt", "x", "--x", "profile=zzz"], "unknown profile 'zzz'"),
    ([*W, "--x", "mode=forecast", "--modes", "faithful"], "x and y are both mode"),
    ([*W, "--presets", "fast", "--thresholds", "1"], "a preset decides rel_l1_thresh as well"),
    (
        [*W, "--thresholds", "1", "--modes", "forecast", "--y", "max_skip=1"],
        "at most 2 settings can be varied at once, not rel_l1_thresh, mode, max_skip",
    ),
    ([*W, "--x", "max_skip=" + ",".join(map(str, range(65)))], "65 points are too many"),
    ([*W, "--repeats", "0"], "--repeats: must be a whole number from 1"),
    ([*W, "--seed", "x"], "--seed: must be a whole number"),
    ([*W, "--width", "64"], "--width: needs --model"),
    (["--model", "demo", "--prompt", "x", "--set", "a.b=1"], "--set: needs a workflow file"),
    (["--model", "demo", "--prompt", "x", "--comfyui", "x"], "--comfyui: needs a workflow file"),
    (["--model", "nowhere", "--prompt", "x"], "--model: no such folder: nowhere"),
    (["nowhere.json"], "nowhere.json: no such file"),
    ([*W, "--out", __file__], f"--out {__file__}: cannot be a folder"),
    ([*W, "--node", "5"], "--node 5: 5 (CLIPTextEncode, 'Negative prompt') is no Apply TeaCache"),
    ([*W, "--node", "Aply"], "no node 'Aply' in the workflow"),
    ([*W, "--set", "Samper.steps=3"], "did you mean 'Sampler'?"),
    (W, "COMFYUI_DIR: no such folder"),
]


@pytest.mark.parametrize(("arguments", "told"), REFUSED)
def test_bad_input(arguments, told, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("COMFYUI_DIR", "/no/such/comfyui")
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *arguments]) == 2
    captured = capsys.readouterr()
    last = captured.err.strip().splitlines()[-1]
    assert last.startswith("teacache: ") and told in last, captured.err
    assert "Traceback" not in captured.err and captured.out == ""
    assert list(tmp_path.iterdir()) == []


def command(comfy_dir, *arguments):
    environment = {**os.environ, "COMFYUI_DIR": str(comfy_dir), "PYTHONPATH": str(ROOT)}
    return {
        "args": [sys.executable, "-m", "teacache", "sweep", *map(str, arguments)],
        "env": environment,
        "cwd": TESTS / "data",  # where no other `teacache` is
        "text": True,
    }


def pixels(path):
    with Image.open(path) as picture:
        return picture.convert("RGB").tobytes()


@pytest.fixture(scope="module")
def workflow(comfy_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep") / "deep" / "er"
    done = subprocess.run(
        **command(
            comfy_dir, QUICKSTART, "--thresholds", "0,0.6", "--y", "profile=auto,flux1-dev",
            "--set", "Sampler.steps=8", "--prompt", "owl", "--seed", "3", "--repeats", "2",
            "--out", out,
        ),
        capture_output=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done, out, json.loads((out / "report.json").read_text())


def test_counts_are_those_of_the_run_reports(workflow):
    _, _, report = workflow
    points = [point for point in report["points"] if point["status"] == "done"]
    assert [point["settings"]["profile"] for point in points] == ["auto"] * 2
    for point in points:
        (run,) = point["runs"]
        assert run["steps"] == 8 and run["threshold"] == point["settings"]["rel_l1_thresh"]
        if run["records"]:
            skipped = sum(record["skipped"] for record in run["records"])
            assert point["skipped"] == run["skipped"] == skipped > 0
            assert point["computed"] == 8 - skipped and point["evaluations"] == 8
        assert point["bytes_held"] == run["bytes_held"]
        assert len(point["all_seconds"]) == 2
        assert point["speedup"] == report["reference"]["seconds"] / point["seconds"]
    assert report["reference"]["computed"] == 8 and report["repeatable"]


def test_threshold_0_is_the_reference(workflow):
    _, out, report = workflow
    off, on = report["points"][:2]
    assert off["identical"] and off["psnr"] is None and off["skipped"] == 0
    assert off["computed"] == off["evaluations"] == 8
    assert pixels(out / off["files"][0]) == pixels(out / "uncached.png")
    assert not on["identical"] and 10 < on["psnr"] < 90
    assert pixels(out / on["files"][0]) != pixels(out / "uncached.png")


def test_a_profile_of_another_family_is_a_line_of_the_table(workflow):
    done, _, report = workflow
    failed = report["points"][2:]
    assert {point["status"] for point in failed} == {"failed"}
    assert "made for the family 'flux1'" in failed[0]["error"]
    line = f"{failed[0]['label']}: cannot run: {failed[0]['error']}"
    assert line in done.stdout.splitlines()


def test_files_table_and_progress(workflow):
    done, out, report = workflow
    names = {"sweep.png", "report.json", "uncached.png"}
    rows = [*report["points"], *report["fewer_steps"]]
    names |= {name for row in rows for name in row.get("files", [])}
    assert {path.name for path in out.iterdir()} == names and len(names) == 6
    assert f"{report['fewer_steps'][0]['steps']}_steps_uncached.png" in names
    row = next(
        line
        for line in done.stdout.splitlines()
        if line.startswith("rel_l1_thresh 0.6, profile auto")
    )
    on = report["points"][1]
    assert gain(on) in row and f"{on['computed']} of 8" in row
    assert f"{on['psnr']:.1f} dB" in row
    assert report["prompt"] == "owl" and report["seed"] == 3
    assert " left" in done.stderr and "100%" in done.stderr and "Traceback" not in done.stderr
    with Image.open(out / "sweep.png") as image:
        layout = Layout.of(report, (128, 128))
        for cell, name in ((0, "uncached.png"), (2, on["files"][0])):
            left, top = layout.corner(cell)
            box = (left, top, left + layout.width, top + layout.height)
            with Image.open(out / name) as picture:
                enlarged = picture.convert("RGB").resize((layout.width, layout.height), 0)
            assert image.crop(box).tobytes() == enlarged.tobytes()


def test_ctrl_c_keeps_the_finished_points(comfy_dir, tmp_path):
    options = ["--thresholds", "0.6,0", "--set", "Sampler.steps=10", "--repeats", "99"]
    process = subprocess.Popen(
        **command(comfy_dir, QUICKSTART, *options, "--out", tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while not (tmp_path / "01_rel_l1_thresh_0.6.png").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.rstrip().endswith("teacache: interrupted") and "Traceback" not in told
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["status"] == "interrupted"
    assert report["points"][0]["status"] == "done"
    assert len(report["points"][0]["all_seconds"]) < 99
    assert (tmp_path / "sweep.png").exists() and "rel_l1_thresh 0.6" in out


def test_a_pipeline(tmp_path, capsys):
    pytest.importorskip("diffusers")
    common = ["--model", "demo", "--prompt", "butterfly", "--steps", "8", "--guidance", "3"]
    axes = ["--thresholds", "0,0.6", "--modes", "faithful"]
    assert main(["sweep", *common, *axes, "--repeats", "1", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    off, on = report["points"]
    assert off["identical"] and off["computed"] == 8
    assert on["skipped"] == on["runs"][0]["skipped"] > 0 and on["runs"][0]["method"] == "faithful"
    assert pixels(tmp_path / off["files"][0]) == pixels(tmp_path / "uncached.png")
    plain = tmp_path / "plain"
    cache = json.dumps({"rel_l1_thresh": 0.6, "mode": "faithful"})
    options = ["--cache-backend", "tea_cache", "--cache-config", cache]
    assert main(["generate", *common, *options, "--out", str(plain)]) == 0
    assert pixels(plain / "image.png") == pixels(tmp_path / on["files"][0])
    assert json.loads((plain / "report.json").read_text())["run"]["skipped"] == on["skipped"]
    assert "Results in" in capsys.readouterr().out


def test_a_pipeline_interrupted(tmp_path, monkeypatch, capsys):
    pytest.importorskip("diffusers")
    from teacache.hosts.diffusers import backend

    real, runs = backend.attempt, []

    def attempt(*args, **options):
        runs.append(options)
        if len(runs) == 5:  # two to warm up, the reference, one point
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(backend, "attempt", attempt)
    options = ["--model", "demo", "--prompt", "owl", "--steps", "4", "--thresholds", "0.3,0.5"]
    assert main(["sweep", *options, "--out", str(tmp_path)]) == 130
    report = json.loads((tmp_path / "report.json").read_text())
    assert [point["status"] for point in report["points"]] == ["done", "not sampled"]
    assert capsys.readouterr().err.rstrip().endswith("teacache: interrupted")


def test_a_value_that_only_fails_beside_another_is_a_line(tmp_path, capsys):
    pytest.importorskip("diffusers")
    axes = ["--x", "start_percent=0,0.5", "--y", "end_percent=0.4"]
    options = ["--model", "demo", "--prompt", "owl", "--steps", "4", "--repeats", "1", *axes]
    assert main(["sweep", *options, "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "cannot run: start_percent must be below end_percent, not 0.5" in told
    with pytest.raises(ConfigError):
        grid_points(parse_axis("start_percent=0.5", "x"))[0].config(TeaCacheConfig(end_percent=0.4))
