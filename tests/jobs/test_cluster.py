"""Joining a Ray: the room in it, addresses where there is none, what is sent along."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT, TESTS

import teacache
from teacache.cli.main import main
from teacache.errors import UserError
from teacache.jobs import shipping
from teacache.jobs.actor import Hello, Surroundings
from teacache.jobs.cluster import Cluster, Share, check_address, share_of

CPUS = Cluster(local=True, cpus=2, gpus=0, nodes=1)
GPUS = Cluster(local=False, cpus=64, gpus=6, nodes=3)


def test_one_worker_on_each_accelerator() -> None:
    assert share_of(GPUS, None, None) == Share(6, 1.0, 1.0)
    assert share_of(GPUS, None, 0.5) == Share(12, 1.0, 0.5)
    assert share_of(GPUS, 2, None) == Share(2, 1.0, 1.0)
    assert share_of(GPUS, None, 0) == Share(3, 1.0, 0.0), "on CPUs: one on each machine"
    assert share_of(CPUS, None, None) == Share(1, 1.0, 0.0)
    assert share_of(CPUS, 8, None) == Share(8, 0.25, 0.0), "all of them have room"


def test_gpus_that_are_not_there() -> None:
    with pytest.raises(UserError, match=r"--gpus-per-worker 0.5: the cluster has no GPU; 0 runs"):
        share_of(CPUS, None, 0.5)
    with pytest.raises(UserError, match=r"--workers 13: the cluster has 6 GPUs, room for 12"):
        share_of(GPUS, 13, 0.5)


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("ray://head:10001", "name HOST:PORT of the cluster"),
        ("head", "must be auto, local or HOST:PORT"),
        ("head:99999", "must be auto, local or HOST:PORT"),
        ("127.0.0.1:9", "no Ray answers there"),
    ],
)
def test_an_unusable_address(address: str, line: str) -> None:
    with pytest.raises(UserError, match=f"--ray {address}: {line}"):
        check_address(address, "--ray")


def test_something_else_listens_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr("teacache.jobs.cluster.ANSWER_SECONDS", 6.0)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(UserError, match=f"--ray {address}: no Ray answers there"):
            check_address(address, "--ray")


def test_without_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ray" else real(name)
    )
    command = ["generate", "--model", "demo", "--prompt", "owl", "--out", str(tmp_path / "out")]
    assert main([*command, "--ray"]) == 2
    told = capsys.readouterr().err
    assert told == "teacache: --ray needs an extra: pip install 'teacache-studio[ray]'\n"
    assert not (tmp_path / "out").exists()


def test_ray_is_not_imported_without_the_option() -> None:
    code = (
        "import sys; from teacache.cli.main import build_parser; build_parser()\n"
        "import teacache.jobs, teacache.cli.run_jobs\n"
        "print('ray' in sys.modules, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_versions_are_compared() -> None:
    pytest.importorskip("ray")
    from teacache.jobs.ray_pool import check_versions

    check_versions(Hello({}))
    python, own = platform.python_version(), teacache.__version__
    with pytest.raises(UserError, match=rf"on far has Python 3.9.1, and this command {python}"):
        check_versions(Hello({}, host="far", python="3.9.1"))
    with pytest.raises(UserError, match=rf"on far has teacache 0.0.1, and this command {own}"):
        check_versions(Hello({}, host="far", teacache="0.0.1"))


def test_what_other_machines_get(monkeypatch: pytest.MonkeyPatch, profile_folder: Path) -> None:
    """The package with the pack, as an installed one; variables that decide; no secrets."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("HF_HUB_TOKEN", "secret")
    monkeypatch.setenv("COMFYUI_DIR", "/shared/ComfyUI")
    environment = shipping.runtime_env(local=False)
    assert environment["env_vars"]["COMFYUI_DIR"] == "/shared/ComfyUI"
    assert "secret" not in environment["env_vars"].values()
    package = shipping.shipped_package()
    assert package.name == "teacache" and (package / "pack" / "nodes" / "__init__.py").is_file()
    assert list(package.glob("pack/models/*/teacache_demo.safetensors"))
    code = "import teacache.installation as i; print(i.pack_folder(), i.is_checkout())"
    command = [sys.executable, "-c", code]
    shell = {"PYTHONPATH": str(package.parent)}
    done = subprocess.run(
        command, cwd=package.parent, env=shell, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str((package / "pack").resolve()), "False"]

    profile_folder.mkdir()
    (profile_folder / "mine.json").write_text("{}")
    assert shipping.surroundings(local=False).profiles == {"mine.json": "{}"}
    assert shipping.surroundings(local=True).profiles is None
    assert "PYTHONPATH" not in environment["env_vars"]
    assert str(ROOT) in shipping.runtime_env(local=True)["env_vars"]["PYTHONPATH"]


def test_an_actor_takes_on_the_surroundings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("OMP_NUM_THREADS", "TEACACHE_PROFILES"):
        monkeypatch.setenv(variable, "of Ray")
    Surroundings("/nowhere", None, {"mine.json": "{}"}).take_on()
    assert "OMP_NUM_THREADS" not in os.environ
    assert (Path(os.environ["TEACACHE_PROFILES"]) / "mine.json").read_text() == "{}"
    Surroundings("/", "7").take_on()
    assert os.environ["OMP_NUM_THREADS"] == "7" and Path.cwd() == Path("/")


FAR = """
import dataclasses, sys
from job_workers import Spec
from teacache.jobs import Job, cluster, results
from teacache.jobs.ray_pool import RayPool

described = cluster.described
cluster.described = lambda: dataclasses.replace(described(), local=False)  # as of many machines
with cluster.joined(sys.argv[1]) as found:
    pool = RayPool([Spec()], found, cluster.share_of(found, 1, None))
    (result,) = results(pool, [Job(1, {})])
print(found.nodes, int(found.cpus), result["pack"])
"""


AUTHORISED = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}


@contextlib.contextmanager
def started_cluster(folder: Path) -> Iterator[str]:
    """A Ray of another process; its address. Its folder is its own: nothing else finds it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    options = [
        f"--port={port}",
        "--num-cpus=3",
        "--include-dashboard=false",
        "--disable-usage-stats",
    ]
    shell = {**os.environ, **AUTHORISED, "PYTHONPATH": str(TESTS / "support")}
    with (folder / "log").open("w") as log:
        head = subprocess.Popen(
            [*command, *options, f"--temp-dir={folder}"],
            cwd=folder,
            env=shell,
            stdout=log,
            stderr=log,
        )
    try:
        for _ in range(600):
            assert head.poll() is None, (folder / "log").read_text()
            if "--block" in (folder / "log").read_text():
                break
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()
        head.wait(timeout=30)


def test_the_package_goes_to_other_machines() -> None:
    """To a cluster that was started without it, by its address."""
    pytest.importorskip("ray")
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder,
        started_cluster(Path(folder)) as address,
    ):
        path = os.pathsep.join([str(ROOT), str(TESTS / "support")])
        command = [sys.executable, "-c", FAR, address]
        shell = {**os.environ, "PYTHONPATH": path, "RAY_AUTH_MODE": "disabled"}
        refused, done = (
            subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
            for env in (shell, {**shell, **AUTHORISED})
        )
    assert f"--ray {address}: asks for a token: set RAY_AUTH_MODE=token" in refused.stderr
    assert done.returncode == 0, done.stderr
    nodes, cpus, pack = done.stdout.split()
    assert (nodes, cpus) == ("1", "3")
    assert Path(pack).parts[-2:] == ("teacache", "pack") and not Path(pack).is_relative_to(ROOT)
