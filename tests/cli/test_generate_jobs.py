"""`teacache generate` of several jobs: here and on Ray, to the bit, and after an interruption."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from marked import Marked
from PIL import Image

pytest.importorskip("diffusers")

from teacache.cli.job_runs import JOURNAL
from teacache.cli.main import main

STEPS = ["--steps", "6", "--guidance", "3"]
JOBS = [
    {"prompt": "butterfly", "seed": 1},
    {"prompt": "dog", "cache_backend": "tea_cache", "tea-cache-rel-l1-thresh": 3, "steps": 9},
    {"prompt": "cat", "width": 64, "height": 64, "negative": "dog", "output": "small/cat"},
    {"prompt": "owl", "image": "in.png", "strength": 0.6},
]
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""They notice within a minute that Ray was killed, and end then."""
FOLDERS = ["001", "002", "small/cat", "004"]


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of jobs in the working directory, with the picture that one of them needs."""
    monkeypatch.chdir(tmp_path)
    for variable in ("DIFFUSION_CACHE_BACKEND", "DIFFUSION_CACHE_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    Image.new("RGB", (128, 128), "orange").save("in.png")
    return written(tmp_path / "jobs.jsonl", JOBS)


def written(path: Path, jobs: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(job) + "\n" for job in jobs))
    return path


def generate(*arguments: object) -> int:
    return main(["generate", "--model", "demo", *STEPS, *map(str, arguments)])


def pictures(out: Path) -> dict[str, bytes]:
    """The bytes of every picture but the timelines, which show times."""
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("image*.png")}


def test_here_and_on_actors_to_the_bit(
    jobs: Path, ray_here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate("--jobs", jobs, "--out", "here") == 0
    here = pictures(tmp_path / "here")
    assert sorted(here) == sorted(f"{folder}/image.png" for folder in FOLDERS)
    assert len(set(here.values())) == 4
    shown = capsys.readouterr()
    heads = [line for line in shown.out.splitlines() if line.endswith("on this process")]
    assert [head.split()[0] for head in heads] == FOLDERS
    assert "jobs: 100%" in shown.err and "4/4" in shown.err
    for workers in (1, 2):
        out = tmp_path / f"workers-{workers}"
        assert generate("--jobs", jobs, "--out", out, "--ray", "auto", "--workers", workers) == 0
        assert pictures(out) == here
        heads = [line for line in capsys.readouterr().out.splitlines() if " on worker " in line]
        assert [head.split()[0] for head in heads] == FOLDERS, "in the order of the jobs"
        assert not (out / JOURNAL).exists()

        report = json.loads((out / "report.json").read_text())
        assert (report["status"], report["jobs"], report["finished"]) == ("success", 4, 4)
        assert sum(row["jobs"] for row in report["workers"].values()) == 4
        entries = report["results"]
        assert [entry["job"] for entry in entries] == [1, 2, 3, 4]
        assert [entry["folder"] for entry in entries] == FOLDERS
        assert entries[0]["settings"] == ["prompt=butterfly", "seed=1"]
        assert entries[1]["runs"][0]["skipped"] > 0 and entries[0]["runs"] == []
        assert entries[3]["files"] == ["004/image.png"] and entries[3]["seconds"] > 0
        assert {entry["worker"] for entry in entries} <= {"worker 1", "worker 2"}

    alone = ["--prompt", "butterfly", "--seed", "1"]
    assert generate(*alone, "--out", "alone") == 0
    assert generate(*alone, "--out", "ray", "--ray", "--report", "r.json") == 0
    one, other = pictures(tmp_path / "alone"), pictures(tmp_path / "ray")
    assert one == other == {"image.png": here["001/image.png"]}
    files = [sorted(path.name for path in Path(out).iterdir()) for out in ("alone", "ray")]
    assert files[0] == files[1] == ["image.png", "report.json"]
    assert json.loads(Path("r.json").read_text())["worker"] == "worker 1"


def test_variations(jobs: Path, tmp_path: Path) -> None:
    options = ["--prompt", "owl", "--vary", "seed=1|2", "--vary", "steps=2|3", "--out", "out"]
    assert generate(*options) == 0
    entries = json.loads(Path("out/report.json").read_text())["results"]
    assert [entry["settings"] for entry in entries] == [
        ["seed=1", "steps=2"], ["seed=1", "steps=3"], ["seed=2", "steps=2"], ["seed=2", "steps=3"],
    ]  # fmt: skip
    assert len(set(pictures(tmp_path / "out").values())) == 4


def test_jobs_that_fail(jobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The others go on; a second run makes only what is missing."""
    bad = {"prompt": "dog", "width": 100}
    written(jobs, [{"prompt": "owl"}, bad, {"prompt": "cat"}])
    assert generate("--jobs", jobs, "--out", "out") == 1
    told = capsys.readouterr().err
    assert "job 2 (--jobs jobs.jsonl, line 2): DemoPipeline: `height` and `width`" in told
    report = json.loads(Path("out/report.json").read_text())
    assert (report["status"], report["finished"], report["failed"]) == ("failed", 2, 1)
    assert [entry["status"] for entry in report["results"]] == ["success", "failed", "success"]
    assert "divisible" in report["results"][1]["error"]
    assert sorted(pictures(tmp_path / "out")) == ["001/image.png", "003/image.png"]

    first = Path("out/001/image.png").stat().st_mtime_ns
    assert generate("--jobs", jobs, "--out", "out") == 1
    assert "2 of 3 jobs are finished: going on" in capsys.readouterr().err
    assert Path("out/001/image.png").stat().st_mtime_ns == first
    written(jobs, [bad])
    assert generate("--jobs", jobs, "--out", "none") == 2, "nothing could be made of the input"


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ([{"prompt": "owl", "promt": 1}], "line 1: no option 'promt' of a job; did you mean"),
        ([{"prompt": "owl"}, {"seed": -1}], "line 2: argument --seed: must be a whole number"),
        ([{"prompt": "owl"}, {"seed": True}], "line 2: seed: must be a number or a text"),
        ([{"prompt": "owl"}, {"seed": 1}], "line 2: --prompt: is required"),
        ([{"prompt": "owl", "out": "x"}], "line 1: no option 'out' of a job"),
        ([{"prompt": "owl", "image": "no.png"}], "line 1: --image no.png: no such file"),
        ([{"prompt": "owl", "cache_config": "{}"}], "line 1: --cache-config: no cache is on"),
    ],
)
def test_bad_lines(
    lines: list[dict[str, Any]], line: str, jobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(jobs, lines)
    assert generate("--jobs", jobs, "--out", "out") == 2
    told = capsys.readouterr().err
    assert told.startswith("teacache: --jobs jobs.jsonl, ") and line in told
    assert told.count("\n") == 1 and not Path("out").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--workers", "2"], "--workers: needs --ray"),
        (["--retries", "2"], "--retries: needs --ray"),
        (["--ray", "somewhere"], "must be auto, local or HOST:PORT, not 'somewhere'"),
        (["--vary", "sed=1|2"], "--vary: no option 'sed' of a job; did you mean 'seed'?"),
        (["--jobs", "no.csv"], "--jobs no.csv: no such file"),
    ],
)
def test_bad_options(
    options: list[str], line: str, jobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate("--prompt", "owl", "--out", "out", *options) == 2
    assert line in capsys.readouterr().err and not Path("out").exists()


def test_a_model_that_workers_cannot_load(
    jobs: Path, ray_here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", "--model", "nowhere", "--prompt", "owl", "--ray", "--out", "out"]
    assert main(command) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("teacache: --model") and "no such folder" in last
    assert not Path("out").exists()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "sent", [signal.SIGKILL, signal.SIGINT, *[signal.SIGTERM] * ("TEACACHE_LONG" in os.environ)]
)
def test_a_driver_that_ends_leaves_no_process_and_is_resumed(
    sent: signal.Signals, jobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    size = {"width": 64, "height": 64, "steps": 60}
    written(jobs, [{"prompt": f"owl {n}", **size} for n in range(8)])
    options = ["--jobs", jobs, "--out", "out"]
    ray = ["--ray", "local", "--workers", "1"]
    command = Marked(tmp_path, "generate", "--model", "demo", *STEPS, *options, *ray)
    command.wait_for(tmp_path / "out" / JOURNAL, lines=3)
    assert len(command.processes()) > 3, "Ray's are among them"
    os.kill(command.process.pid, sent)
    if sent != signal.SIGKILL:
        assert command.all_end(), command.processes()
        assert command.process.wait() == 130
        assert "teacache: interrupted" in command.process.stdout.read()
        report = json.loads(Path("out/report.json").read_text())
        assert report["status"] == "interrupted" and 2 <= report["finished"] < 8
        return
    assert command.all_end(but=AGENTS), command.processes()
    finished = sorted(pictures(tmp_path / "out"))[:2]
    assert finished == ["001/image.png", "002/image.png"]
    before = [(tmp_path / "out" / name).stat().st_mtime_ns for name in finished]
    assert generate(*options) == 0, "without Ray, whatever it was begun with"
    assert " of 8 jobs are finished: going on with the others" in capsys.readouterr().err
    assert [(tmp_path / "out" / name).stat().st_mtime_ns for name in finished] == before
    assert len(pictures(tmp_path / "out")) == 8
    report = json.loads(Path("out/report.json").read_text())
    assert [entry["job"] for entry in report["results"]] == list(range(1, 9))
