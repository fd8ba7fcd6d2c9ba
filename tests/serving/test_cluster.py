"""What a cluster is asked for and told, and how lost replicas show; no cluster runs."""

from __future__ import annotations

import asyncio
import pickle
import socket
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError

from teacache import __version__
from teacache.errors import ExecutionError, UserError
from teacache.installation import LIBRARY, is_checkout
from teacache.serving.cluster import (
    PACK_PARTS,
    Replicas,
    checked_resources,
    reason_of,
    runtime_env,
    usable_address,
)
from teacache.serving.errors import ApiError
from teacache.serving.models import Pictures, SamplingProgress
from teacache.serving.ray_executor import RayServeExecutor
from teacache.serving.replica import Server, Started, check_version
from teacache.serving.requests import ImageRequest


def cluster(**resources):
    return SimpleNamespace(cluster_resources=lambda: resources)


@pytest.mark.parametrize(
    ("gpus", "there", "each"),
    [(None, 0, 0), (None, 2, 1), (0.5, 1, 0.5), (0, 4, 0)],
)
def test_each_replica_takes_a_gpu_where_there_are_any(gpus, there, each):
    assert checked_resources(cluster(CPU=8.0, GPU=there), Replicas(2, 2, gpus=gpus)) == each


@pytest.mark.parametrize(
    ("replicas", "message"),
    [
        (Replicas(gpus=1), "--gpus-per-replica 1: 1 replica needs 1 GPU, and the cluster has 0"),
        (Replicas(0, 4, gpus=0.5), "1 replica needs 0.5 GPU"),
        (Replicas(9, 9), "--cpus-per-replica 1: 9 replicas need 9 CPU, and the cluster has 8"),
    ],
)
def test_too_few_gpus_or_cpus(replicas, message):
    with pytest.raises(UserError, match=message):
        checked_resources(cluster(CPU=8.0), replicas)


def test_requests_are_handed_over_until_all_replicas_are_asked_for():
    assert Replicas(3, 3).accepts == 3
    assert Replicas(1, 4, target=2).accepts == 8
    assert Replicas(0, 1, target=0.1).accepts == 1


def test_replicas_of_this_machine_take_the_code_where_it_is(monkeypatch):
    monkeypatch.setenv("TEACACHE_PROFILES", "/profiles")
    monkeypatch.setenv("PYTHONPATH", "/mine")
    environment = runtime_env([socket.gethostname()])
    assert list(environment) == ["env_vars"]
    assert environment["env_vars"]["PYTHONPATH"].split(":") == [str(LIBRARY.parent), "/mine"]
    assert environment["env_vars"]["TEACACHE_PROFILES"] == "/profiles"


def test_replicas_of_other_machines_are_sent_the_code_alone(monkeypatch):
    environment = runtime_env([socket.gethostname(), "other"])
    assert is_checkout() and "PYTHONPATH" not in environment["env_vars"]
    left_out = {name.removeprefix("/") for name in environment["excludes"]}
    everything = {path.name for path in LIBRARY.parent.iterdir()}
    assert everything - left_out == set(PACK_PARTS) & everything >= {"teacache", "nodes"}
    monkeypatch.setattr("teacache.serving.cluster.is_checkout", lambda: False)
    assert runtime_env(["other"])["py_modules"] == [str(LIBRARY)]


def test_another_version_of_the_pack():
    check_version(Server("one"))
    with pytest.raises(UserError, match=f"has teacache-studio 0.0.1, but .* has {__version__}"):
        check_version(Server("one", "0.0.1"))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Traceback:\n  x\nteacache.errors.UserError: --model: none\n", "--model: none"),
        ("x\nteacache.errors.ConfigError: max_skip: too many", "max_skip: too many"),
        (
            "x\nModuleNotFoundError: No module named 'diffusers'",
            "--ray: a replica cannot start: ModuleNotFoundError: No module named 'diffusers'",
        ),
        ("no  place", "--ray: a replica cannot start: no place"),
    ],
)
def test_the_reason_of_a_replica_that_cannot_start(message, reason):
    assert reason_of(message) == reason


@pytest.mark.parametrize("address", ["10.0.0.5", ":6379", "head:port", "head:99999", "ray://h:1"])
def test_an_address_is_one_of_three_kinds(address):
    with pytest.raises(UserError, match="must be auto, local, or HOST:PORT"):
        usable_address(address)


def test_a_machine_that_says_nothing(monkeypatch):
    monkeypatch.setattr("teacache.serving.cluster.CONNECT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match=r"no answer within 0\.1 s"):
            usable_address(address)


def test_a_refusal_can_be_sent():
    refusal = ApiError(429, "full", param="n", code="queue_full", kind="x", retry_after=3)
    sent = pickle.loads(pickle.dumps(refusal))
    assert type(sent) is ApiError and (sent.body, sent.headers) == (refusal.body, refusal.headers)
    assert sent.status == 429


class Lost:
    """A deployment whose replicas are lost after two steps, but for the last of so many."""

    def __init__(self, lost):
        self.requests, self.lost, self.cancelled = [], lost, 0
        self.sample = self

    def options(self, stream):
        assert stream
        return self

    def remote(self, request):
        self.requests.append(request)
        return self

    def cancel(self):
        self.cancelled += 1

    async def __aiter__(self):
        yield Started()
        for step in range(1, 5):
            yield SamplingProgress("sampling", step, 4)
            if step == 2 and len(self.requests) <= self.lost:
                raise ActorDiedError
        yield Pictures([], 0.1, self.requests[-1].seed)


def sampled(lost):
    """The result, and what was told of the request."""
    deployment, starts, steps = Lost(lost), [], []

    async def run():
        executor = RayServeExecutor(deployment, lambda: 2, accepts=2)
        await executor.open()
        try:
            return executor.slots, await executor.run(
                ImageRequest("dog"), lambda: starts.append(1), steps.append
            )
        finally:
            await executor.close()

    try:
        result = asyncio.run(run())
    except ExecutionError as error:
        result = error
    return deployment, result, starts, [step.step for step in steps]


def test_a_lost_replica_shows_in_nothing_that_is_told():
    deployment, (slots, pictures), starts, steps = sampled(lost=2)
    assert slots == 2 and starts == [1] and steps == [1, 2, 3, 4]
    assert [each.seed for each in deployment.requests] == [pictures.seed] * 3
    assert deployment.cancelled == 3


def test_a_request_that_every_replica_is_lost_with_fails():
    deployment, failure, _, steps = sampled(lost=100)
    assert "4 replicas were lost with this request" in str(failure) and steps == [1, 2]
    assert len(deployment.requests) == 4
