"""`teacache serve --ray`: the server's promises with replicas on a real cluster of one machine."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from image_server import opened, served_command
from paths import ROOT
from ray_head import free_port, ray_head, replicas

from teacache.cli.main import main
from teacache.config import TeaCacheConfig
from teacache.hosts.diffusers.generation import Request, generate
from teacache.plots.pixels import to_pil

WANTED = {"num_inference_steps": 12, "guidance_scale": 3.0}
SCALING = ("--min-replicas", 1, "--max-replicas", 2, "--target-requests", 1.5)
DELAYS = ("--scale-up-after", 0.5, "--scale-down-after", 2, "--cpus-per-replica", 0.5)
CACHE = ("--cache-backend", "tea_cache", "--tea-cache-rel-l1-thresh", 0.3, "--max-queue", 4)
MODEL = ("--model", "demo")


@pytest.fixture(scope="module")
def head():
    with ray_head(cpus=2) as head:
        yield head


@pytest.fixture(scope="module")
def served(head):
    arguments = (*MODEL, "--ray", head[0], *SCALING, *DELAYS, *CACHE)
    with served_command(*arguments) as (running, process):
        yield running, process


@pytest.fixture(scope="module")
def server(served):
    return served[0]


@pytest.fixture(scope="module")
def local(pipe):
    """Pictures of seeds, sampled in this process."""

    def sample(seed: int) -> bytes:
        request = Request(prompt="butterfly", steps=12, guidance=3.0, seed=seed)
        made = generate(pipe, request, cache=TeaCacheConfig(rel_l1_thresh=0.3))
        return to_pil(made.pictures[0]).tobytes()

    return sample


def pixels(answer):
    return opened(answer.data[0]).tobytes()


def wait_until_gone(head, processes):
    until = time.monotonic() + 60
    while processes & set(replicas(head[1])):
        assert time.monotonic() < until
        time.sleep(0.2)


def test_a_picture_is_that_of_one_process(server, local):
    client = server.openai()
    answer = client.images.generate(prompt="butterfly", extra_body=WANTED | {"seed": 1})
    assert pixels(answer) == local(1)
    cache = answer.model_extra["teacache"]
    assert cache["seed"] == 1 and 0 < cache["skipped"] < cache["steps"] == 12
    (model,) = client.models.list()
    assert model.id == "demo" and model.model_extra["teacache"]["pipeline"] == "DemoPipeline"
    assert "threshold 0.3" in server.said


def test_steps_and_noisy_pictures_are_streamed(server):
    stream = server.openai().images.generate(
        prompt="dog", stream=True, partial_images=1, extra_body={"num_inference_steps": 4}
    )
    kinds = [event.type.removeprefix("image_generation.") for event in stream]
    assert kinds == ["progress"] * 2 + ["partial_image"] + ["progress"] * 2 + ["completed"]


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"num_inference_steps": 201}, "num_inference_steps", "from 1 to 200"),
        ({"cache_config": {"profile": "unknown"}}, "cache_config", "unknown profile"),
        ({"size": "100x100"}, None, "divisible by"),
    ],
)
def test_what_is_refused_there_is_told_as_here(server, fields, param, message):
    with pytest.raises(openai.BadRequestError, match=message) as refused:
        server.openai().images.generate(prompt="dog", extra_body=fields)
    assert refused.value.param == param


def test_a_client_that_goes_away_stops_the_replica(server, local):
    cancelled = 'teacache_jobs_total{outcome="cancelled"}'
    before = server.metric(cancelled)
    left = server.begin(prompt="dog", num_inference_steps=200, size="256x256")
    server.wait_for("teacache_jobs_running", 1)
    left.close()
    server.wait_for(cancelled, before + 1)
    started = time.monotonic()
    answer = server.openai().images.generate(prompt="butterfly", extra_body=WANTED | {"seed": 2})
    assert pixels(answer) == local(2)
    assert time.monotonic() - started < 20, "200 steps of that size take longer"


def test_load_scales_up_and_a_killed_replica_loses_no_request(head, server, local):
    """Every accepted request has its answer, the right one; without load there is one replica."""
    assert server.metric("teacache_slots") == 1
    refused = threading.Event()

    def ask(seed: int) -> bytes:
        client = server.openai()
        while True:
            try:
                return pixels(
                    client.images.generate(prompt="butterfly", extra_body=WANTED | {"seed": seed})
                )
            except openai.RateLimitError as full:
                assert int(full.response.headers["Retry-After"]) >= 1
                refused.set()
                time.sleep(0.2)

    enough = threading.Event()

    def ask_on(client: int) -> dict[int, bytes]:
        seeds = iter(range(client, 10_000, 8))
        made = {}
        while not enough.is_set():
            seed = next(seeds) % 24
            made[seed] = ask(seed)
        return made

    with ThreadPoolExecutor(8) as clients:
        asked = [clients.submit(ask_on, client) for client in range(8)]
        try:
            server.wait_for("teacache_slots", 2)
            server.wait_for("teacache_jobs_running", 2)
            os.kill(replicas(head[1])[0], signal.SIGKILL)
            time.sleep(1)
        finally:
            enough.set()
        pictures = {seed: made for each in asked for seed, made in each.result().items()}
    assert refused.is_set() and len(pictures) >= 8
    for seed in sorted(pictures)[:3]:
        assert pictures[seed] == local(seed)
    assert server.metric('teacache_jobs_total{outcome="failed"}') == 2  # those refused above
    server.wait_for("teacache_slots", 1)


def test_a_workflow_on_a_replica_that_ends_by_sigterm(head, comfy_dir):
    file = ROOT / "workflows" / "api" / "quickstart.json"
    arguments = ("--workflow", file, "--ray", head[0], "--cpus-per-replica", 0.5)
    before = set(replicas(head[1]))
    with served_command(*arguments, environment={"COMFYUI_DIR": str(comfy_dir)}) as (
        running, process,
    ):  # fmt: skip
        assert "prompt: 4 (CLIPTextEncode, 'Prompt').text\n" in running.said
        client = running.openai()
        wanted = {"num_inference_steps": 4, "seed": 1}
        plain = client.images.generate(prompt="dog", extra_body=wanted)
        assert plain.model_extra["teacache"]["steps"] == 4
        stream = client.images.generate(
            prompt="dog", stream=True, partial_images=1, extra_body=wanted
        )
        *steps, last = list(stream)
        assert last.b64_json == plain.data[0].b64_json and len(steps) == 5
        own = set(replicas(head[1])) - before
        assert len(own) == 1
        process.terminate()
        assert process.wait(60) == 0 and process.stderr.read() == ""
    wait_until_gone(head, own)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gpus-per-replica", 0.5), "1 replica needs 0.5 GPU, and the cluster has 0"),
        (("--replicas", 9), "--cpus-per-replica 1: 9 replicas need 9 CPU, and the cluster has 2"),
        (("--model", "no-such-folder"), "--model: no such folder: no-such-folder"),
    ],
)
def test_what_the_cluster_cannot_do(head, options, message):
    given = options if "--model" in options else (*MODEL, *options)
    command = [sys.executable, "-m", "teacache", "serve", "--port", "0", "--ray", head[0]]
    done = subprocess.run(
        [*command, *map(str, given)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and line.startswith("teacache: ") and message in line


def test_another_version_of_ray(head):
    code = (
        "import os, sys; os.environ['RAY_AUTH_MODE'] = 'token'\n"
        "import ray; ray.__version__ = '2.1.0'\n"
        "from teacache.cli.main import main\n"
        f"sys.exit(main(['serve', '--model', 'demo', '--port', '0', '--ray', {head[0]!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "Version mismatch" in line and "2.1.0" in line


def test_a_server_that_is_killed_leaves_no_replica(head, served):
    _, process = served
    left = set(replicas(head[1]))
    assert left
    process.kill()
    wait_until_gone(head, left)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--ray", "127.0.0.1"), "--ray 127.0.0.1: must be auto, local, or HOST:PORT"),
        (("--ray", f"127.0.0.1:{free_port()}"), "no Ray is there: Connection refused"),
        (("--replicas", 2), "--replicas: needs --ray"),
        (("--gpus-per-replica", 1), "--gpus-per-replica: needs --ray"),
        (("--ray", "--min-replicas", 2), "--min-replicas: needs --max-replicas N"),
        (("--ray", "--replicas", 2, "--max-replicas", 3), "--max-replicas: not together with"),
        (
            ("--ray", "--min-replicas", 3, "--max-replicas", 2),
            "--min-replicas 3: is above --max-replicas 2",
        ),
        (("--ray", "--replicas", 0), "must be a whole number from 1 to 1000, not '0'"),
    ],
)
def test_what_it_refuses_before_ray_is_asked(options, message, capsys):
    assert main(["serve", *MODEL, "--port", "0", *map(str, options)]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("teacache: ") and message in line


def test_an_address_where_something_else_is(capsys):
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.handle_request, daemon=True).start()
        address = f"127.0.0.1:{other.server_port}"
        assert main(["serve", *MODEL, "--port", "0", "--ray", address]) == 2
    assert f"--ray {address}: something else than Ray answers there" in capsys.readouterr().err


def test_without_ray_one_line_says_how_to_get_it():
    code = (
        "import sys\nfrom importlib import util; found = util.find_spec\n"
        "util.find_spec = lambda name, *a: None if name == 'ray' else found(name, *a)\n"
        "from teacache.cli.main import main\n"
        "sys.exit(main(['serve', '--model', 'demo', '--port', '0', '--ray']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "teacache: --ray needs an extra: pip install 'teacache-studio[ray]'"
    )
    assert "ray" not in json.dumps(done.stdout)
