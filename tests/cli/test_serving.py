"""`teacache run --server` against real ComfyUI servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

import aiohttp
import pytest
from comfy_server import ROOT, Server, serving
from PIL import Image

from teacache.cli.main import main
from teacache.hosts.comfyui.remote import RemoteHost, safe_path
from teacache.workflows.edits import uncached

QUICKSTART = ROOT / "workflows" / "api" / "quickstart.json"
EDITOR = ROOT / "workflows" / "quickstart.json"
SHORT = ["--set", "Sampler.steps=8"]


@pytest.fixture(scope="module")
def servers(comfy_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    folder = tmp_path_factory.mktemp("servers")
    with serving(comfy_dir, folder / "a") as one, serving(comfy_dir, folder / "b") as two:
        yield [one, two]


@pytest.fixture
def server(servers: list[Server]) -> Server:
    return servers[0]


def run(*arguments: Any) -> int:
    return main(["run", *map(str, arguments)])


def pixels(path: Path) -> bytes:
    with Image.open(path) as picture:
        return picture.convert("RGB").tobytes()


def test_one_workflow(server: Server, tmp_path: Path, capsys: Any) -> None:
    report = tmp_path / "report.json"
    options = ["--server", server.url, "--out", tmp_path, "--report", report]
    assert run(QUICKSTART, *SHORT, "--set", "Prompt.text=dog", *options) == 0
    shown = capsys.readouterr()
    assert "Sampler: 100%" in shown.err and "8/8" in shown.err
    (picture,) = tmp_path.glob("*.png")
    assert str(picture) in shown.out
    with Image.open(picture) as image:
        assert image.size == (128, 128)
    data = json.loads(report.read_text())
    assert data["status"] == "success"
    (entry,) = data["results"]
    assert entry["files"] == {"10": [picture.name]} and entry["worker"] == server.url
    assert entry["runs"][0]["steps"] == 8 and entry["runs"][0]["summary"] in shown.out

    again = ["--server", server.url, "--out", tmp_path / "again"]
    assert run(QUICKSTART, *SHORT, "--set", "Prompt.text=dog", *again) == 0
    assert pixels(tmp_path / "again" / picture.name) == pixels(picture), "kept results are lost"


def test_files_that_exist_are_kept(server: Server, tmp_path: Path) -> None:
    """A server that starts anew gives its old names again; the same file is not stored twice."""
    options = [*SHORT, "--set", "Prompt.text=kept", "--server", server.url, "--out", tmp_path]
    assert run(QUICKSTART, *options) == 0
    (picture,) = tmp_path.glob("*.png")
    assert run(QUICKSTART, *options) == 0, "answered from the server's cache"
    assert list(tmp_path.glob("*.png")) == [picture]
    made = picture.read_bytes()
    picture.write_bytes(b"of the user")
    assert run(QUICKSTART, *options) == 0
    assert picture.read_bytes() == b"of the user"
    assert (tmp_path / f"{picture.stem}_2.png").read_bytes() == made


def test_only_the_client_of_a_prompt_hears_its_events(server: Server) -> None:
    """A prompt without a client runs on the server while another client listens."""

    async def listen() -> list[dict[str, Any]]:
        heard: list[dict[str, Any]] = []
        graph = json.loads(QUICKSTART.read_text())
        graph["7"]["inputs"] |= {"steps": 4, "seed": 77}
        async with (
            RemoteHost(server.url) as host,
            host.session.ws_connect(f"ws?clientId={host.client}") as socket,
        ):
            async with host.session.post("prompt", json={"prompt": graph}) as answer:
                prompt = (await answer.json())["prompt_id"]
            await host._history(prompt)
            with contextlib.suppress(asyncio.TimeoutError):
                while True:
                    message = await socket.receive(timeout=0.5)
                    if message.type is aiohttp.WSMsgType.TEXT:
                        heard.append(json.loads(message.data))
        return heard

    heard = asyncio.run(listen())
    assert any(event["type"] == "status" for event in heard)
    assert not [event for event in heard if event["type"].startswith("teacache.")]


def test_a_file_of_the_editor(server: Server, tmp_path: Path) -> None:
    assert run(EDITOR, *SHORT, "--server", server.url, "--out", tmp_path) == 0
    assert len(list(tmp_path.glob("*.png"))) == 1
    assert len(list((tmp_path / "preview").glob("*.png"))) == 1


def test_variations_on_one_server_and_on_two(
    servers: list[Server], ray_here: None, tmp_path: Path, capsys: Any
) -> None:
    vary = ["--vary", "Prompt.text=dog|cat", "--vary", "7.seed=1|2", *SHORT]
    assert run(QUICKSTART, *vary, "--server", servers[1].url, "--out", tmp_path / "one") == 0
    report = tmp_path / "report.json"
    options = [option for server in servers for option in ("--server", server.url)]
    options += ["--ray", "--out", tmp_path, "--report", report]
    assert run(QUICKSTART, *vary, *options) == 0
    entries = json.loads(report.read_text())["results"]
    assert [entry["settings"] for entry in entries] == [
        ["Prompt.text=dog", "7.seed=1"],
        ["Prompt.text=dog", "7.seed=2"],
        ["Prompt.text=cat", "7.seed=1"],
        ["Prompt.text=cat", "7.seed=2"],
    ]
    assert {entry["worker"] for entry in entries} <= {server.url for server in servers}
    pictures = [next((tmp_path / f"{n:03}").glob("*.png")) for n in range(1, 5)]
    assert len({pixels(picture) for picture in pictures}) == 4
    for picture in pictures:
        (alone,) = (tmp_path / "one" / picture.parent.name).glob("*.png")
        assert pixels(alone) == pixels(picture)
    assert "003 Prompt.text=cat, 7.seed=1 on http" in capsys.readouterr().out


def test_the_cache_is_put_in_before_the_graph_is_sent(server: Server, tmp_path: Path) -> None:
    workflow, report = tmp_path / "w.json", tmp_path / "report.json"
    workflow.write_text(json.dumps(uncached(json.loads(QUICKSTART.read_text()))))
    options = ["--server", server.url, "--out", tmp_path, "--report", report, "--cache", "2.0x"]
    assert run(workflow, "--set", "Sampler.steps=20", "--vary", "Sampler.seed=5|6", *options) == 0
    data = json.loads(report.read_text())
    (inserted,) = data["cache"]["inserted"]
    assert inserted["consumers"] == ["7 (KSampler, 'Sampler')"]
    runs = [entry["runs"] for entry in data["results"]]
    found = [(run["node"], run["computed"], run["skipped"]) for (run,) in runs]
    assert found == [(inserted["node"], 10, 10)] * 2


def test_a_graph_that_fails_is_status_1(server: Server, tmp_path: Path, capsys: Any) -> None:
    graph = json.loads(QUICKSTART.read_text())
    graph["6"] = {
        "class_type": "EmptyLatentImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1},
    }
    graph["9"]["inputs"]["samples"] = ["6", 0]  # four channels for sixteen
    workflow, report = tmp_path / "w.json", tmp_path / "report.json"
    workflow.write_text(json.dumps(graph))
    options = ["--server", server.url, "--out", tmp_path, "--report", report]
    assert run(workflow, *options) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "node 9 (VAEDecode, 'Decode') failed: RuntimeError: " in last
    assert json.loads(report.read_text())["status"] == "failed"
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["--set", "2.rel_l1_thresh=-1"], "node 2 (ApplyTeaCache, 'Apply TeaCache')"),
        (["--set", "Sampler.sampler_name=magic"], "sampler_name"),
        (["--set", "Sampler.step=3"], "has no input 'step'; did you mean 'steps'?"),
        (["--vary", "seed"], "--vary seed: write NAME=A|B"),
        (["--vary", "seed=1"], "--vary: seed: a job's inputs are called NODE.INPUT"),
        (["--vary", "Nobody.seed=1|2"], "--vary: Nobody.seed: no node 'Nobody'"),
        (["--vary", "7.sed=1|2"], "--vary: node 7 (KSampler, 'Sampler') has no input 'sed'"),
        (["--upload", "nowhere.png"], "--upload nowhere.png: no such file"),
    ],
)
def test_bad_input(
    server: Server, settings: list[str], line: str, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    assert run(QUICKSTART, *settings, "--server", server.url, "--out", out) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("teacache: ") and line in last
    assert not list(tmp_path.glob("**/*.png"))


def test_no_server_there(tmp_path: Path, capsys: Any) -> None:
    for url, line in (("http://127.0.0.1:9", "no ComfyUI answers there"), ("x:1", "http://")):
        assert run(QUICKSTART, "--server", url, "--out", tmp_path / "out") == 2
        assert line in capsys.readouterr().err
    assert run(QUICKSTART, "--upload", "a.png", "--out", tmp_path / "out") == 2
    assert "--upload: needs --server URL" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_upload_and_the_pipeline_nodes(server: Server, tmp_path: Path) -> None:
    """An own picture edited by the diffusers nodes of the image-edit workflow."""
    pytest.importorskip("diffusers")
    picture = tmp_path / "orange square.png"
    Image.new("RGB", (128, 128), "orange").save(picture)
    graph = json.loads((ROOT / "workflows" / "api" / "diffusers_image_edit.json").read_text())
    graph["3"] = {"class_type": "LoadImage", "inputs": {"image": picture.name}}
    workflow, report = tmp_path / "edit.json", tmp_path / "report.json"
    workflow.write_text(json.dumps(graph))
    settings = ["--set", "Edit.steps=12", "--upload", picture, "--report", report]
    out = tmp_path / "out"
    assert run(workflow, *settings, "--server", server.url, "--out", out) == 0
    (entry,) = json.loads(report.read_text())["results"]
    (cached,) = entry["runs"]
    assert cached["node"] == "2" and cached["host"] == "diffusers"
    assert cached["evaluations"] == 9 and entry["files"].keys() == {"5"}


def test_ctrl_c_stops_the_server_too(server: Server, tmp_path: Path) -> None:
    arguments = ["--set", "Sampler.steps=10000", "--set", "2.rel_l1_thresh=0"]
    command = [sys.executable, "-m", "teacache", "run", QUICKSTART, *arguments]
    process = subprocess.Popen(
        [*map(str, command), "--server", server.url, "--out", str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    shown = ""
    while "step/s]" not in shown:
        letter = process.stderr.read(1)
        assert letter, shown
        shown += letter
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert "teacache: interrupted" in shown + process.stderr.read()
    for _ in range(100):
        with urllib.request.urlopen(f"{server.url}/queue") as answer:
            if not json.load(answer)["queue_running"]:
                return
        time.sleep(0.1)
    raise AssertionError("the server still samples")


def test_a_lost_servers_job_goes_to_another_one(
    servers: list[Server], ray_here: None, tmp_path: Path, capsys: Any
) -> None:
    """One of two servers is killed while it samples; the last test that needs both."""
    alive, dying = servers
    slow = ["--set", "Sampler.steps=150", "--set", "2.rel_l1_thresh=0"]
    killed = threading.Thread(target=kill_when_busy, args=(dying,))
    killed.start()
    options = ["--server", alive.url, "--server", dying.url, "--ray"]
    options += ["--vary", "7.seed=1|2|3", "--out", tmp_path / "out"]
    report = tmp_path / "report.json"
    assert run(QUICKSTART, *slow, *options, "--report", report) == 0
    killed.join()
    told = capsys.readouterr().err
    assert f"{dying.url} was lost with job" in told and "the job is tried again" in told
    assert "a worker is given up, 1 left" in told
    entries = json.loads(report.read_text())["results"]
    assert [entry["job"] for entry in entries] == [1, 2, 3]
    assert max(entry["attempts"] for entry in entries) == 2
    assert len(list((tmp_path / "out").glob("00?/*.png"))) == 3


def kill_when_busy(server: Server) -> None:
    for _ in range(600):
        with urllib.request.urlopen(f"{server.url}/queue") as answer:
            if json.load(answer)["queue_running"]:
                server.process.kill()
                return
        time.sleep(0.1)


def test_several_servers_need_ray(tmp_path: Path, capsys: Any) -> None:
    options = ["--server", "http://127.0.0.1:9", "--server", "http://127.0.0.1:10"]
    assert run(QUICKSTART, *options, "--out", tmp_path / "out") == 2
    assert "--server: several share the work with --ray" in capsys.readouterr().err
    assert run(QUICKSTART, *options, "--ray", "--workers", "2", "--out", tmp_path / "out") == 2
    assert "--workers: not with --server" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("subfolder", "filename", "expected"),
    [
        ("", "a.png", "a.png"),
        ("sub/deep", "a.png", "sub/deep/a.png"),
        ("../../etc", "../passwd", "etc/passwd"),
        ("/root", "a.png", "root/a.png"),
        ("..\\c", "x\\a.png", "c/a.png"),
        ("", "C:evil.png", "C_evil.png"),
        ("C:", "C:\\evil.png", "evil.png"),
        ("a/D:b/c", "a.png:stream", "a/c/a.png_stream"),
        ("", "..", "unnamed"),
        ("a", "x/..", "a/unnamed"),
        ("", ".", "unnamed"),
        ("", "", "unnamed"),
        ("a", "b/", "a/unnamed"),
        (".. /. /b", "... ", "b/unnamed"),
        ("a\x00b/c", "a\n.png", "c/a_.png"),
        ("", "what? v1.2.png", "what? v1.2.png"),
    ],
)
def test_a_servers_names_stay_inside_the_folder(
    subfolder: str, filename: str, expected: str
) -> None:
    path = safe_path(subfolder, filename)
    assert path.as_posix() == expected
    windows = PureWindowsPath("D:/results") / path
    assert windows.is_relative_to("D:/results") and ".." not in windows.parts
