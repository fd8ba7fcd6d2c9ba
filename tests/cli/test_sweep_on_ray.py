"""`teacache sweep --ray`: the files of one process, and gains by the times of one worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from paths import ROOT, TESTS

from teacache.cli.main import main

QUICKSTART = ROOT / "workflows" / "api" / "quickstart.json"
TIMES = (
    "advice", "estimated_speedup", "process", "processes", "speedup", "spread", "started",
    "summary", "timed",
)  # fmt: skip
"""Entries that depend on times, beside those that are seconds."""

pytestmark = pytest.mark.usefixtures("without_lpips")


def without_times(report: Any) -> Any:
    """A report, or a part of one, that another process must repeat."""
    if isinstance(report, dict):
        kept = [k for k in report if k not in TIMES and "seconds" not in k]
        return {key: without_times(report[key]) for key in kept}
    return [without_times(each) for each in report] if isinstance(report, list) else report


def assert_the_same(alone: Path, shared: Path) -> dict[str, Any]:
    """Files, pictures and figures but for times; gives the report of the workers."""
    names = sorted(path.name for path in alone.iterdir())
    assert sorted(path.name for path in shared.iterdir()) == names
    for name in names:
        if name.endswith(".png") and name != "sweep.png":  # which shows times
            assert (alone / name).read_bytes() == (shared / name).read_bytes(), name
    expected, report = (json.loads((out / "report.json").read_text()) for out in (alone, shared))
    assert without_times(report) == without_times(expected)
    assert report["repeatable"] and not expected["processes"]
    for row in [*report["points"], *report["fewer_steps"]]:
        if row["status"] == "done":
            uncached = report["processes"][row["process"]]["uncached_seconds"]
            assert row["speedup"] == median(uncached) / row["seconds"]
    return report


def test_a_pipeline(ray_here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sweep", "--model", "demo", "--prompt", "owl", "--steps", "8", "--guidance", "3"]
    command += ["--thresholds", "0,0.6", "--y", "profile=auto,flux1-dev", "--repeats", "1"]
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert main([*command, "--out", str(alone)]) == 0
    capsys.readouterr()
    assert main([*command, "--out", str(shared), "--ray", "--workers", "2"]) == 0
    told = capsys.readouterr().out
    report = assert_the_same(alone, shared)
    assert report["points"][1]["skipped"] > 0 and report["fewer_steps"]
    assert "rel_l1_thresh 0.6, profile flux1-dev: cannot run: profile 'flux1-dev' is" in told
    assert "times of different processes cannot be compared" in told


def test_a_workflow(
    ray_here: None, comfy_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["sweep", str(QUICKSTART), "--thresholds", "0,0.6", "--set", "Sampler.steps=8"]
    command += ["--prompt", "owl", "--seed", "3", "--repeats", "1"]
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    done = subprocess.run(
        [sys.executable, "-m", "teacache", *command, "--out", str(alone)],
        capture_output=True,
        text=True,
        env={**os.environ, "COMFYUI_DIR": str(comfy_dir), "PYTHONPATH": str(ROOT)},
        cwd=TESTS / "data",  # where no other `teacache` is
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("COMFYUI_DIR", str(comfy_dir))
    assert main([*command, "--out", str(shared), "--ray", "--workers", "1"]) == 0
    report = assert_the_same(alone, shared)
    assert report["points"][1]["skipped"] > 0 and report["fewer_steps"]


def test_when_no_point_can_run_it_is_the_error_of_the_first_one(
    ray_here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", "--model", "demo", "--prompt", "x", "--x", "profile=zzz", "--ray"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("teacache: unknown profile 'zzz'")
    assert not (tmp_path / "out").exists()
