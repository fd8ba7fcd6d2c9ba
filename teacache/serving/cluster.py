"""A model as a deployment of Ray Serve: on this machine's own Ray, or on a cluster."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, UserError
from ..installation import LIBRARY, is_checkout, pack_folder
from ..profiles.store import FOLDER_VARIABLE
from .executors import Executor
from .models import ModelDescription
from .replica import NAMESPACE, Replica, Server, SignOfLife
from .sources import ModelSource

AUTO, LOCAL = "auto", "local"
INSTALL = "--ray needs an extra: pip install 'teacache-studio[ray]'"
DEPLOYMENT = "model"
CARRIED = (FOLDER_VARIABLE, "XDG_DATA_HOME", "HF_HOME", "HF_HUB_CACHE", "OMP_NUM_THREADS")
"""Variables of the server's environment that its replicas get."""
PACK_PARTS = ("__init__.py", "teacache", "nodes", "locales", "web", "pyproject.toml")
"""What is sent of a checkout to nodes that do not have it."""
CONNECT_SECONDS = 5.0
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What a client of gRPC, which Ray speaks, begins with: its preface and empty settings."""
HTTP2_SETTINGS = b"\x04"
"""The type of the frame that a server of gRPC begins with."""
SLOW_SECONDS = 30.0
"""After which the user is told what is waited for."""
LOOK_BACK_SECONDS = 5.0
"""Over which autoscaling averages the number of requests."""
TOKEN_FILE = Path("~/.ray/auth_token")
"""With which clusters know their users; Ray's own place for it."""
END_SECONDS = 5.0
"""Which replicas may take to end with their server."""
DRAIN_SECONDS = 1800.0
"""Which a replica that is no longer needed may take to end its picture."""


@dataclass(frozen=True)
class Replicas:
    """How many replicas there are, and what each takes.

    Args:
        least, most: Ray Serve's autoscaling keeps between them; equal ones are a fixed number.
        gpus: of each, a fraction allowed; None for one where the cluster has any.
        cpus: of each.
        target: requests for each replica, sampled or waiting, that autoscaling aims at.
        up_seconds, down_seconds: how long more or fewer replicas must have been enough.
    """

    least: int = 1
    most: int = 1
    gpus: float | None = None
    cpus: float = 1.0
    target: float = 2.0
    up_seconds: float = 10.0
    down_seconds: float = 300.0

    @property
    def accepts(self) -> int:
        """Requests handed to Ray Serve at a time: as many as make it scale up to `most`."""
        return self.most if self.least == self.most else max(1, round(self.most * self.target))


@contextmanager
def deployed(
    address: str, source: ModelSource, replicas: Replicas, say: Callable[[str], None], verbose: bool
) -> Iterator[tuple[ModelDescription, Executor]]:
    """A model on replicas, for the context.

    Args:
        address: `auto`, `local`, or HOST:PORT of a cluster's head.
        say: told what is waited for.
        verbose: show Ray's log.

    Raises:
        UserError: there is no Ray, or not what was asked for, or the model cannot be loaded.
    """
    with connected(address, verbose) as ray:
        gpus = checked_resources(ray, replicas)
        server = Server(f"teacache-{secrets.token_hex(4)}")
        sign = ray.remote(num_cpus=0, max_restarts=-1)(SignOfLife)  # its node may be lost
        alive = sign.options(name=server.name, namespace=NAMESPACE).remote()
        ray.get(alive.__ray_ready__.remote())
        with application(source, server, replicas, gpus, say) as (handle, count):
            description = handle.describe.remote().result()
            from .ray_executor import RayServeExecutor

            yield description, RayServeExecutor(handle, count, replicas.accepts)


@contextmanager
def connected(address: str, verbose: bool) -> Iterator[Any]:
    """Ray, connected to a cluster, or with one of its own that ends with the context."""
    address = usable_address(address)
    prepare_environment()
    ray = import_ray()
    quiet(verbose)
    by_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        connect(ray, address, verbose)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, by_sigterm)  # not Ray's, which ends the process
        yield ray
    finally:
        ray.shutdown()


def connect(ray: Any, address: str, verbose: bool) -> None:
    """Connects to the cluster at `address`, or starts one; `UserError` where that is impossible."""

    def init(where: str, environment: dict[str, Any]) -> None:
        ray.init(
            address=where,
            namespace=NAMESPACE,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            runtime_env=environment,
            **({"include_dashboard": False} if where == LOCAL else {}),
        )

    try:
        if address != LOCAL:
            with contextlib.suppress(*([ConnectionError] if address == AUTO else [])):
                init(address, {})
                machines = {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
                ray.shutdown()
                init(address, runtime_env(machines))
                return
        init(LOCAL, runtime_env())
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        if "AuthenticationError" in str(error.__cause__):
            reason = "the cluster asks for a token: set RAY_AUTH_TOKEN, or put it in " + str(
                TOKEN_FILE
            )
        raise UserError(f"--ray {address}: {reason}") from None


def prepare_environment() -> None:
    """Sets what Ray reads from the environment when it is imported, where the user did not."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a Ray that is started here
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # a thread of Ray Serve would at the end
    token = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    if token or TOKEN_FILE.expanduser().is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def import_ray() -> Any:
    """Ray with Ray Serve; `UserError` with the command that installs them."""
    if importlib.util.find_spec("ray") is None:
        raise UserError(INSTALL)
    try:
        importlib.import_module("ray.serve")
    except ImportError as error:
        raise UserError(f"{INSTALL} ({error})") from None
    return importlib.import_module("ray")


def usable_address(address: str) -> str:
    """The address for `ray.init`; `UserError` where no Ray answers."""
    if address == AUTO:
        address = os.environ.get("RAY_ADDRESS", AUTO)
    if address in (AUTO, LOCAL):
        return address
    host, colon, port = address.rpartition(":")
    if "://" in address or not (host and colon and port.isdecimal() and int(port) < 65536):
        raise UserError(
            f"--ray {address}: must be auto, local, or HOST:PORT of the cluster's head, such as "
            "10.0.0.5:6379"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS) as connection:
            connection.sendall(HTTP2_HELLO)
            answer = connection.recv(9)
    except TimeoutError:
        raise UserError(f"--ray {address}: no answer within {CONNECT_SECONDS:g} s") from None
    except OSError as error:
        raise UserError(f"--ray {address}: no Ray is there: {error.strerror or error}") from None
    if answer[3:4] != HTTP2_SETTINGS:
        raise UserError(f"--ray {address}: something else than Ray answers there")
    return address


def quiet(verbose: bool) -> None:
    """Silences what Ray Serve logs in this process, unless `verbose`."""
    if not verbose:
        logging.getLogger("ray.serve").setLevel(logging.CRITICAL)


def runtime_env(nodes: Iterable[str] = ()) -> dict[str, Any]:
    """What Ray sets up for replicas: the pack's code and variables of this process.

    Args:
        nodes: names of the cluster's machines. The pack is sent unless this one is the only one.
    """
    variables = {name: os.environ[name] for name in CARRIED if name in os.environ}
    if set(nodes) <= {socket.gethostname()}:
        paths = [str(LIBRARY.parent), os.environ.get("PYTHONPATH", "")]
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        return {"env_vars": variables}
    if not is_checkout():
        return {"env_vars": variables, "py_modules": [str(LIBRARY)]}
    entries = [entry.name for entry in pack_folder().iterdir()]
    excluded = [f"/{name}" for name in entries if name not in PACK_PARTS]
    return {"env_vars": variables, "working_dir": str(pack_folder()), "excludes": excluded}


def checked_resources(ray: Any, replicas: Replicas) -> float:
    """How many GPUs each replica takes; `UserError` if the cluster has too few GPUs or CPUs."""
    there = ray.cluster_resources()
    gpus = there.get("GPU", 0.0)
    each = replicas.gpus
    if each is None:
        each = 1.0 if gpus else 0.0
    count = max(1, replicas.least)
    need = "1 replica needs" if count == 1 else f"{count} replicas need"
    for option, kind, wanted in (
        ("--gpus-per-replica", "GPU", each),
        ("--cpus-per-replica", "CPU", replicas.cpus),
    ):
        needed, has = count * wanted, there.get(kind, 0.0)
        if needed > has:
            raise UserError(
                f"{option} {wanted:g}: {need} {needed:g} {kind}, and the cluster has {has:g}"
            )
    return each


@contextmanager
def application(
    source: ModelSource,
    server: Server,
    replicas: Replicas,
    gpus: float,
    say: Callable[[str], None],
) -> Iterator[tuple[Any, Callable[[], int]]]:
    """An application of Ray Serve, for the context: its handle, and how many replicas run.

    Raises:
        UserError: the model cannot be loaded.
    """
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    serve.start(
        proxy_location="Disabled",  # this process is the only one with a port
        logging_config={"log_level": "ERROR", "enable_access_log": False},
    )
    target = serve.RunTarget(deployment(replicas, gpus).bind(source, server), server.name, None)
    try:
        [handle] = serve.run_many([target], wait_for_applications_running=False)
        wait_until_running(server.name, say)
        yield handle, lambda: running(server.name)
    finally:
        with contextlib.suppress(RayError, RayServeException):  # the cluster is gone, all of it
            serve.delete(server.name, _blocking=False)
            until = time.monotonic() + END_SECONDS  # in which replicas remove their files
            while server.name in serve.status().applications and time.monotonic() < until:
                time.sleep(0.1)


def deployment(replicas: Replicas, gpus: float) -> Any:
    """`Replica` as a deployment of Ray Serve."""
    from ray import serve

    options: dict[str, Any] = {}
    if replicas.least == replicas.most:
        options["num_replicas"] = replicas.most
    else:
        options["autoscaling_config"] = {
            "min_replicas": replicas.least,
            "initial_replicas": max(1, replicas.least),
            "max_replicas": replicas.most,
            "target_ongoing_requests": replicas.target,
            "upscale_delay_s": replicas.up_seconds,
            "downscale_delay_s": replicas.down_seconds,
            "look_back_period_s": LOOK_BACK_SECONDS,
            "metrics_interval_s": LOOK_BACK_SECONDS / 5,
        }
    return serve.deployment(
        name=DEPLOYMENT,
        ray_actor_options={"num_gpus": gpus, "num_cpus": replicas.cpus},
        max_ongoing_requests=1,
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
        graceful_shutdown_wait_loop_s=0.1,
        health_check_period_s=5.0,
        request_router_config={
            "initial_backoff_s": 0.01,
            "backoff_multiplier": 1.5,
            "max_backoff_s": 0.1,
        },
        **options,
    )(Replica)


def wait_until_running(name: str, say: Callable[[str], None]) -> None:
    """Waits for the first replicas; `UserError` with the reason where they cannot start."""
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    told, started = False, time.monotonic()
    while True:
        status = serve.status().applications[name]
        if status.status == ApplicationStatus.RUNNING:
            return
        deployments = status.deployments.values()
        message = " ".join(each.message for each in deployments) or status.message
        if status.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
            raise UserError(reason_of(message))
        if not told and time.monotonic() - started > SLOW_SECONDS:
            told = True
            say(f"waiting for a replica … {' '.join(message.split())[:300]}".rstrip())
        time.sleep(0.1)


def reason_of(message: str) -> str:
    """What is behind the message of a deployment that failed: the last error in its traceback."""
    for line in reversed(message.strip().splitlines()):
        kind, colon, text = line.strip().partition(": ")
        name = kind.rpartition(".")[2]
        if colon and name in (UserError.__name__, ConfigError.__name__):
            return text
        if colon and name.endswith(("Error", "Exception")):
            return f"--ray: a replica cannot start: {name}: {text}"[:400]
    return f"--ray: a replica cannot start: {' '.join(message.split())[:300]}"


def running(name: str) -> int:
    """How many replicas of an application run."""
    from ray import serve

    application = serve.status().applications.get(name)
    if application is None:
        return 0
    states = application.deployments[DEPLOYMENT].replica_states
    return sum(count for state, count in states.items() if state == "RUNNING")
