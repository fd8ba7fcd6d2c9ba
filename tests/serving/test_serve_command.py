"""`teacache serve` as a process: the guide's words, its end, and what it refuses to start with."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import openai
import pytest
from image_server import served_command
from paths import ROOT

from teacache.cli.main import main

MODEL = ("--model", "demo")
QUICKSTART = ROOT / "workflows" / "api" / "quickstart.json"


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_guides_words(stop):
    guide = ("--cache-backend", "tea_cache", "--cache-config", '{"rel_l1_thresh": 0.4}')
    with served_command(*MODEL, *guide, environment={"TEACACHE_API_KEY": "s3cret"}) as (
        running, process,
    ):  # fmt: skip
        assert running.url.startswith("http://127.0.0.1:") and "s3cret" not in running.said
        assert "threshold 0.4" in running.said
        with pytest.raises(openai.AuthenticationError):
            running.openai("other").models.list()
        client = running.openai("s3cret")
        answer = client.images.generate(prompt="dog", extra_body={"num_inference_steps": 20})
        cache = answer.model_extra["teacache"]
        assert cache["runs"][0]["threshold"] == 0.4 and cache["skipped"] > 0

        headers = {"Authorization": "Bearer s3cret", "Content-Type": "application/json"}
        body = b'{"prompt": "dog", "num_inference_steps": 200, "size": "512x512"}'
        connection = running.connect()
        connection.request("POST", "/v1/images/generations", body, headers)
        running.wait_for("teacache_jobs_running", 1)
        started = time.monotonic()
        process.send_signal(stop)
        assert connection.getresponse().status == 503
        assert process.wait(20) == 0 and time.monotonic() - started < 15
        assert process.stderr.read() == ""


@pytest.mark.parametrize("presses", [1, 2])
def test_a_step_that_takes_long_is_left_behind(presses, tmp_path):
    """After some seconds, or at the second Ctrl-C; with nothing left in the temporary folder."""
    with served_command(*MODEL, "--max-n", 1000, environment={"TMPDIR": str(tmp_path)}) as (
        running, process,
    ):  # fmt: skip
        connection = running.begin(prompt="dog", n=400)
        running.wait_for("teacache_jobs_running", 1)
        time.sleep(0.5)
        for _ in range(presses):
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
        assert process.wait(20) == 0, "a step of so many takes longer"
        connection.close()
        assert list(tmp_path.glob("teacache-*")) == []


@pytest.mark.parametrize("arguments", [MODEL, ("--workflow", QUICKSTART)])
def test_sigterm_while_the_model_is_loaded_leaves_nothing(arguments, tmp_path, comfy_dir):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(tmp_path),
        "COMFYUI_DIR": str(comfy_dir),
    }
    command = [sys.executable, "-m", "teacache", "serve", "--port", "0", *map(str, arguments)]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    ) as process:
        assert process.stderr.readline().startswith("loading ")
        assert len(list(tmp_path.glob("teacache-serve-*"))) == 1
        process.terminate()
        assert process.wait(20) == 130
        assert process.stderr.read() == "teacache: interrupted\n"
    assert list(tmp_path.glob("teacache-*")) == []


def test_the_environment_turns_the_cache_on():
    variables = {"DIFFUSION_CACHE_BACKEND": "tea_cache"}
    with served_command(*MODEL, "--served-model-name", "own", environment=variables) as (
        running, _,
    ):  # fmt: skip
        (model,) = running.openai().models.list()
        assert model.id == "own" and model.model_extra["teacache"]["cache"] is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "serve: give one of --model DIR and --workflow FILE"),
        ([*MODEL, "--workflow", QUICKSTART], "serve: give one of --model DIR"),
        (["--model", "no-such-folder"], "--model: no such folder: no-such-folder"),
        (["--model", QUICKSTART], "--model: no such folder"),
        (["--workflow", "none.json"], "none.json: no such file"),
        (["--workflow", ROOT / "pyproject.toml"], "is not complete JSON"),
        (["--workflow", QUICKSTART, "--map", "prompt"], "--map prompt: write FIELD=NODE.INPUT"),
        (["--workflow", QUICKSTART, "--map", "prompt=x.text"], "no node 'x' in the workflow"),
        ([*MODEL, "--map", "prompt=Prompt.text"], "--map: needs --workflow FILE"),
        ([*MODEL, "--picture", "Save"], "--picture: needs --workflow FILE"),
        ([*MODEL, "--steps", "300"], "--steps 300: is above --max-steps 200"),
        ([*MODEL, "--port", "70000"], "must be a whole number from 0 to 65535, not '70000'"),
        ([*MODEL, "--host", "no.such.host.invalid"], "--host no.such.host.invalid: no such host"),
        ([*MODEL, "--host", "192.0.2.1"], "cannot be used on 192.0.2.1"),
        ([*MODEL, "--cache-config", "{}"], "--cache-config: no cache is on"),
        ([*MODEL, "--cache-backend", "teacache"], "--cache-backend: unknown backend 'teacache'"),
    ],
)
def test_what_it_refuses_in_one_line(arguments, message, capsys, comfy_dir, monkeypatch):
    monkeypatch.setenv("COMFYUI_DIR", str(comfy_dir))
    given = arguments if "--port" in arguments else [*arguments, "--port", "0"]
    assert main(["serve", *map(str, given)]) == 2
    *before, line = capsys.readouterr().err.splitlines()
    assert line.startswith("teacache: ") and message in line
    assert all(" …" in other for other in before)


def test_a_port_in_use(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", *MODEL, "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert (
        error == f"teacache: --port {port}: cannot be used on 127.0.0.1: Address already in use\n"
    )


def test_without_the_extra_one_line_says_how_to_get_it():
    code = (
        "import sys; sys.modules['fastapi'] = None\n"
        "from importlib import util; found = util.find_spec\n"
        "util.find_spec = lambda name, *a: None if name == 'fastapi' else found(name, *a)\n"
        "from teacache.cli.main import main; sys.exit(main(['serve', '--model', 'demo']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == (
        "teacache: teacache serve needs an extra: pip install 'teacache-studio[serve]'\n"
    )


def test_the_other_commands_load_nothing_of_it():
    code = (
        "import sys\nfrom teacache.cli.main import build_parser\nbuild_parser()\n"
        "print(*[name for name in ('fastapi', 'uvicorn', 'pydantic') if name in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == []


def test_outside_this_machine_it_asks_for_a_key():
    with served_command(*MODEL, "--host", "0.0.0.0") as (running, _):
        assert "no --api-key: whoever reaches http://0.0.0.0:" in running.said
    with served_command(*MODEL, "--host", "0.0.0.0", "--api-key", "k") as (running, _):
        assert "no --api-key" not in running.said
