"""`teacache run` of several jobs in a ComfyUI of its own: here and on Ray, to the bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

from teacache.cli.job_plan import Entry
from teacache.cli.main import main
from teacache.cli.run_jobs import models_of

QUICKSTART = ROOT / "workflows" / "api" / "quickstart.json"
EDITOR = ROOT / "workflows" / "quickstart.json"
SHORT = ["--set", "Sampler.steps=12", "--set", "2.rel_l1_thresh=3"]
JOBS = [
    {"Prompt.text": "dog", "7.seed": 1},
    {"Prompt.text": "42", "7.seed": 1, "Size.width": 64},
    {"Prompt.text": "dog", "7.seed": 1, "output": "again"},
    {"Save.filename_prefix": "sub/owl"},
]
FILES = [
    "001/quickstart_00001_.png",
    "002/quickstart_00001_.png",
    "004/sub/owl_00001_.png",
    "again/quickstart_00001_.png",
]


def run(*arguments: object) -> int:
    return main(["run", *map(str, arguments)])


def in_a_process(
    comfy_dir: Path, folder: Path, *arguments: object
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, where ComfyUI can be loaded."""
    return subprocess.run(
        [sys.executable, "-m", "teacache", "run", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"COMFYUI_DIR": str(comfy_dir), "PYTHONPATH": str(ROOT)},
        cwd=folder,
        timeout=300,
    )


def saved(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*.png")}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("jobs") / "jobs.jsonl"
    path.write_text("".join(json.dumps(job) + "\n" for job in JOBS))
    return path


@pytest.fixture(scope="module")
def here(comfy_dir: Path, jobs: Path) -> tuple[Path, str]:
    """The folder of the jobs' results in one process without Ray, and what it printed."""
    options = [*SHORT, "--jobs", jobs, "--out", "here", "--report", "here/report.json"]
    done = in_a_process(comfy_dir, jobs.parent, QUICKSTART, *options)
    assert done.returncode == 0, done.stderr
    return jobs.parent / "here", done.stdout


def test_jobs_in_one_process(here: tuple[Path, str]) -> None:
    out, shown = here
    found = saved(out)
    assert sorted(found) == FILES
    assert len(set(found.values())) == 3
    assert found["001/quickstart_00001_.png"] == found["again/quickstart_00001_.png"], (
        "sampled again with the same result"
    )
    report = json.loads((out / "report.json").read_text())
    entries = report["results"]
    assert report["status"] == "success" and report["workflow"] == "quickstart.json"
    assert entries[1]["settings"] == ["Prompt.text=42", "7.seed=1", "Size.width=64"]
    assert entries[2]["files"] == {"10": ["again/quickstart_00001_.png"]}
    computed = [[(run["computed"], run["skipped"]) for run in e["runs"]] for e in entries]
    assert computed[0] == computed[2] and len(computed[0]) == 1 and computed[0][0][1] > 0
    heads = [line.split()[0] for line in shown.splitlines() if line.endswith("on this process")]
    assert heads == ["001", "002", "again", "004"]
    assert f"10 (SaveImage, 'Save'): {Path('here/001/quickstart_00001_.png')}" in shown


def test_on_actors_to_the_bit(
    here: tuple[Path, str], jobs: Path, comfy_dir: Path, ray_here: None, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COMFYUI_DIR", str(comfy_dir))
    report = tmp_path / "report.json"
    options = ["--out", tmp_path / "out", "--report", report, "--ray", "--workers", "2"]
    assert run(QUICKSTART, *SHORT, "--jobs", jobs, *options) == 0
    assert saved(tmp_path / "out") == saved(here[0])
    entries = json.loads(report.read_text())["results"]
    former = json.loads((here[0] / "report.json").read_text())["results"]
    for one, other in zip(entries, former, strict=True):
        for key in ("job", "settings", "folder", "status", "files"):
            assert one[key] == other[key]
        (ours,), (theirs,) = one["runs"], other["runs"]
        assert [record["skipped"] for record in ours["records"]] == [
            record["skipped"] for record in theirs["records"]
        ]


def test_a_single_run_on_ray_is_as_without(
    here: tuple[Path, str], comfy_dir: Path, ray_here: None, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The same files, numbered behind those that are there, and the same report."""
    monkeypatch.setenv("COMFYUI_DIR", str(comfy_dir))
    options = ["--set", "Prompt.text=dog", "--set", "7.seed=1", *SHORT, "--report"]
    (tmp_path / "quickstart_00007_.png").write_bytes(b"mine")
    report = tmp_path / "report.json"
    assert run(QUICKSTART, *options, report, "--out", tmp_path, "--ray") == 0
    assert sorted(saved(tmp_path)) == ["quickstart_00007_.png", "quickstart_00008_.png"]
    picture = saved(tmp_path)["quickstart_00008_.png"]
    assert picture == saved(here[0])["001/quickstart_00001_.png"]
    data = json.loads(report.read_text())
    assert data["files"] == {"10": ["quickstart_00008_.png"]} and data["worker"] == "worker 1"
    assert data["nodes"]["7"]["title"] == "Sampler" and len(data["runs"]) == 1
    shown = capsys.readouterr()
    assert "Sampler: 100%" in shown.err and data["runs"][0]["summary"] in shown.out


@pytest.mark.parametrize(
    ("workflow", "text", "line"),
    [
        (QUICKSTART, "7.seed,Nobody.text\n1,a\n", "line 2: Nobody.text: no node 'Nobody'"),
        (QUICKSTART, "seed\n1\n", "line 2: seed: a job's inputs are called NODE.INPUT"),
        (EDITOR, "seed\n1\n", "line 2: seed: a job's inputs are called NODE.INPUT"),
        (QUICKSTART, '7.seed\n1\n"2\n', "not CSV"),
        (QUICKSTART, "7.seed,output\n1,a\n2,a\n", "line 3: output: a is the folder of"),
    ],
)
def test_bad_files_before_comfyui_is_loaded(
    workflow: Path, text: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text(text)
    assert run(workflow, "--jobs", path, "--out", tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert told.startswith("teacache: --jobs jobs.csv") and line in told
    assert told.count("\n") == 1 and not (tmp_path / "out").exists()


def test_inputs_that_no_node_has(comfy_dir: Path, ray_here: None, tmp_path: Path,
                                 monkeypatch: pytest.MonkeyPatch,
                                 capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """Known once ComfyUI is: before anything runs, also for the last line."""
    monkeypatch.setenv("COMFYUI_DIR", str(comfy_dir))
    path = tmp_path / "jobs.jsonl"
    path.write_text('{"7.seed": 1}\n{"7.seed": "1"}\n')
    assert run(EDITOR, "--jobs", path, "--out", tmp_path / "out", "--ray") == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("teacache: --jobs jobs.jsonl, line 2: node 7 (KSampler, 'Sampler')")
    assert "must be a whole number" in last and not (tmp_path / "out").exists()


def test_jobs_that_need_the_same_models() -> None:
    def models(**values: Any) -> str:
        return models_of(
            Entry(1, {name.replace("_", ".", 1): v for name, v in values.items()}, "", "")
        )

    assert models(Sampler_seed=1, Sampler_sampler_name="euler") == ""
    one = models(Loader_unet_name="a.safetensors", Sampler_seed=1)
    assert one and one == models(Loader_unet_name="a.safetensors", Sampler_seed=2)
    assert one != models(Loader_unet_name="b.safetensors", Sampler_seed=1)
