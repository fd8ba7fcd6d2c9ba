"""A Ray cluster: joined or started, and how many workers it has room for."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ..errors import UserError
from .shipping import shipped_package

AUTO, LOCAL = "auto", "local"
INSTALL = "--ray needs an extra: pip install 'teacache-studio[ray]'"
ADDRESS_VARIABLE = "RAY_ADDRESS"
CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 40.0
TRIES = {"RAY_gcs_server_port_wait_time_s": "4"}
"""How often Ray tries to connect, about a second apart."""
TOKEN = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN unless it is in ~/.ray/auth_token"
JOIN = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
except Exception as error:
    print(*str(error).split())
    sys.exit(1)
"""


@dataclass(frozen=True)
class Cluster:
    """What there is.

    Attributes:
        local: every node is this machine.
        cpus, gpus: of all nodes.
        nodes: that are alive.
    """

    local: bool
    cpus: float
    gpus: float
    nodes: int


@dataclass(frozen=True)
class Share:
    """How many workers there are, and what each of them holds."""

    workers: int
    cpus: float
    gpus: float


def share_of(cluster: Cluster, workers: int | None, gpus_per_worker: float | None) -> Share:
    """The workers for a command.

    Args:
        workers: how many are wanted; None for one on each accelerator, or on each node where there
            are none.
        gpus_per_worker: 1 or a fraction; 0 for workers on the CPU; None for 1 where there are any.

    Raises:
        UserError: the cluster has not so many GPUs.
    """
    gpus = gpus_per_worker
    if gpus is None:
        gpus = 1.0 if cluster.gpus else 0.0
    room = int(cluster.gpus / gpus + 1e-6) if gpus else None
    if room == 0:
        raise UserError(f"--gpus-per-worker {gpus:g}: the cluster has no GPU; 0 runs on its CPUs")
    if workers is None:
        workers = cluster.nodes if room is None else room
    elif room is not None and workers > room:
        raise UserError(
            f"--workers {workers}: the cluster has {cluster.gpus:g} GPUs, room for {room} workers "
            f"with {gpus:g} each; --gpus-per-worker takes fractions"
        )
    cpus = min(1.0, int(100 * cluster.cpus / workers) / 100)
    return Share(workers, cpus, gpus)


@contextlib.contextmanager
def joined(address: str, verbose: bool = False) -> Iterator[Cluster]:
    """The cluster at `address` within the context; one that this process has joined is kept.

    SIGTERM becomes KeyboardInterrupt within it.

    Args:
        address: HOST:PORT of a cluster that this machine is a node of; `local` to start one here
            that ends with the context; `auto` for the one in $RAY_ADDRESS or on this machine, else
            `local`.
        verbose: show what Ray and the workers log.

    Raises:
        UserError: there is no Ray, here or at the address.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError(INSTALL)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not verbose:
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    import ray

    known = ray.is_initialized()
    if not known:
        _join(address, verbose)
    try:
        cluster = described()
        if not (known or cluster.local):
            _join_again(verbose)
        with _terminated_as_interrupted():
            yield cluster
    finally:
        if not known:
            ray.shutdown()


def _join(address: str, verbose: bool) -> None:
    named = os.environ.get(ADDRESS_VARIABLE, "") if address == AUTO else address
    if named not in ("", LOCAL, AUTO):
        check_address(named, "--ray" if named == address else ADDRESS_VARIABLE)
    try:
        _init(named or None, verbose)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"--ray {address}: {reason}") from None


def _join_again(verbose: bool) -> None:
    """Joins the same cluster with what its other machines need, which Ray takes only then."""
    import ray

    address = ray.get_runtime_context().gcs_address
    ray.shutdown()
    _init(address, verbose, runtime_env={"py_modules": [str(shipped_package())]})


def _init(address: str | None, verbose: bool, **options: Any) -> None:
    import ray

    ray.init(
        address=address,
        include_dashboard=False if address in (None, LOCAL) else None,
        log_to_driver=verbose,
        logging_level="WARNING" if verbose else "ERROR",
        **options,
    )


def check_address(address: str, source: str) -> None:
    """`UserError` unless this process can join the Ray at `address`.

    Another process tries it: where something else listens, `ray.init` waits without an end, and
    heeds no signal.
    """
    if "://" in address:
        raise UserError(
            f"{source} {address}: name HOST:PORT of the cluster, on a machine that is a node of it"
        )
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"{source} {address}: must be auto, local or HOST:PORT, such as head:6379")
    nothing = UserError(f"{source} {address}: no Ray answers there")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError:
        raise nothing from None
    try:
        check = subprocess.run(
            [sys.executable, "-c", JOIN, address],
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            check=False,
            env=os.environ | TRIES,
        )
    except subprocess.TimeoutExpired:
        raise nothing from None
    if "InvalidAuthToken" in check.stderr:
        raise UserError(f"{source} {address}: asks for a token: {TOKEN}")
    if check.returncode:
        raise UserError(f"{source} {address}: {check.stdout.strip()[:300] or 'cannot be joined'}")


def described() -> Cluster:
    """The cluster that this process has joined."""
    import ray

    nodes: list[dict[str, Any]] = [node for node in ray.nodes() if node["Alive"]]
    own = ray.util.get_node_ip_address()
    resources = ray.cluster_resources()
    return Cluster(
        local=all(node["NodeManagerAddress"] == own for node in nodes),
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        nodes=len(nodes),
    )


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
