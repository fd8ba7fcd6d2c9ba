"""`teacache calibrate --ray`: the profile of one process, also when workers and the command die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from dying_worker import DyingSpec
from paths import ROOT, TESTS
from ray_session import ray_pool

from teacache.calibration.calibrator import calibrate_and_save
from teacache.calibration.jobs import MODEL, SharedSampling
from teacache.calibration.shards import CaseRun, Shard
from teacache.cli.main import main
from teacache.errors import UserError
from teacache.hosts.diffusers.generation import Request
from teacache.hosts.diffusers.worker import PipelineCalibrationSpec, PipelineSource
from teacache.jobs import Watcher, kept_open
from teacache.profiles.store import ProfileStore

QUICKSTART = ROOT / "workflows" / "api" / "quickstart.json"
STEPS = 8
PROMPTS = ("a fox", "an owl")


def saved(folder: Path, name: str = "mine") -> dict[str, Any]:
    """A profile's file without its date."""
    data: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    assert data["made"].pop("date")
    return data


def test_a_pipeline_whose_worker_and_whose_command_die_is_calibrated_as_in_one_process(
    ray_here: None, profile_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["calibrate", "--model", "demo", "--steps", str(STEPS), "--guidance", "3"]
    command += [option for prompt in PROMPTS for option in ("--prompt", prompt)]
    command += ["--trials", "0", "--name", "mine", "--out", str(tmp_path)]
    assert main(command) == 0
    expected = saved(profile_folder)
    picture = (tmp_path / "mine.png").read_bytes()
    ProfileStore(profile_folder).delete("mine")
    capsys.readouterr()

    requests = tuple(
        Request(prompt, steps=STEPS, guidance=3.0, seed=seed) for seed, prompt in enumerate(PROMPTS)
    )
    spec = PipelineCalibrationSpec("", PipelineSource("demo"), requests)
    specs = [DyingSpec(spec, tmp_path / "died", f"worker {number}") for number in (1, 2)]
    watcher = Recording()
    with kept_open(ray_pool(specs)) as rounds:
        shared = SharedSampling(rounds, 2, watcher)

        def interrupted(runs: Sequence[CaseRun]) -> Iterator[tuple[CaseRun, Shard]]:
            for result in shared(runs):
                yield result
                watcher.sampled += 1
                if watcher.sampled == 12:
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            calibrate_and_save(
                ProfileStore(profile_folder),
                shared.describe(),
                interrupted,
                "mine",
                trials=0,
                overwrite=False,
                on_progress=lambda progress: None,
            )
    assert (tmp_path / "died").exists() and any("tried again" in each for each in watcher.told)
    assert [path.name for path in profile_folder.iterdir()] == ["mine.partial.jsonl"]

    assert main(command) == 0
    assert "going on with what was interrupted" in capsys.readouterr().err
    assert saved(profile_folder) == expected
    assert (tmp_path / "mine.png").read_bytes() == picture
    assert [path.name for path in profile_folder.iterdir()] == ["mine.json"]


class Recording(Watcher):
    def __init__(self) -> None:
        self.told: list[str] = []
        self.sampled = 0

    def notice(self, sentence: str) -> None:
        self.told.append(sentence)


def test_a_workflow_is_calibrated_as_in_one_process(
    ray_here: None,
    comfy_dir: Path,
    tmp_path: Path,
    profile_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = json.loads(QUICKSTART.read_text(encoding="utf-8"))
    (settings,) = [n["inputs"] for n in graph.values() if n["class_type"] == "KSampler"]
    settings["steps"] = STEPS
    short = tmp_path / "short.json"
    short.write_text(json.dumps(graph), encoding="utf-8")
    command = ["calibrate", str(short), "--prompt", "a fox"]
    command += ["--trials", "0", "--out", str(tmp_path / "out"), "--name"]
    done = subprocess.run(
        [sys.executable, "-m", "teacache", *command, "alone"],
        capture_output=True,
        text=True,
        env={**os.environ, "COMFYUI_DIR": str(comfy_dir), "PYTHONPATH": str(ROOT)},
        cwd=TESTS / "data",  # where no other `teacache` is
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("COMFYUI_DIR", str(comfy_dir))
    assert main([*command, "shared", "--ray", "--workers", "2"]) == 0
    alone, shared = saved(profile_folder, "alone"), saved(profile_folder, "shared")
    assert alone.pop("name") == "alone" and shared.pop("name") == "shared"
    assert shared == alone and shared["made"]["host"] == "ComfyUI"


REFUSED = [
    (["--workers", "2"], "--workers: needs --ray"),
    (["--ray", "--gpus-per-worker", "1"], "--gpus-per-worker 1: the cluster has no GPU"),
    (["--ray", "nowhere"], "--ray: must be auto, local or HOST:PORT, not 'nowhere'"),
]


@pytest.mark.parametrize(("options", "told"), REFUSED)
def test_bad_input_is_one_line_and_nothing_is_written(
    options: list[str],
    told: str,
    ray_here: None,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    profile_folder: Path,
) -> None:
    out = tmp_path / "out"
    common = ["--model", "demo", "--prompt", "x", "--quick", "--out", str(out)]
    assert main(["calibrate", *common, *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("teacache: ") and told in error
    assert not list(profile_folder.glob("*.json")) and not out.exists()


def test_a_model_that_is_not_there_is_told_by_the_worker(
    ray_here: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["calibrate", "--model", str(tmp_path / "gone"), "--prompt", "x", "--ray"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == f"teacache: --model: no such folder: {tmp_path / 'gone'}"


def test_workers_with_different_models_are_refused() -> None:
    class Described:
        def __init__(self, **key: str) -> None:
            self.key = key

    sampling = SharedSampling(None, 0, Watcher())  # type: ignore[arg-type]
    sampling._admit({MODEL: Described(model="a", about="x")})
    sampling._admit({MODEL: Described(model="a", about="x")})
    with pytest.raises(UserError, match="do not have the same model: model differ"):
        sampling._admit({MODEL: Described(model="b", about="x")})
