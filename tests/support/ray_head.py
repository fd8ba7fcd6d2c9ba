"""A Ray cluster of one node on this machine, and the processes of its replicas."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

WAIT = 60.0
REPLICA = "ray::ServeReplica"
HEAD = """
import sys, ray
ray.init(
    address="local", num_cpus=int(sys.argv[1]), include_dashboard=False, log_to_driver=False,
    object_store_memory=100_000_000,
)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
ray.shutdown()
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def ray_head(cpus: int) -> Iterator[tuple[str, int]]:
    """A cluster of one node: its address, and the process that all others of it descend from."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # Unix sockets need a short path
    own = {
        "RAY_TMPDIR": folder,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # else whatever runs beside a test comes before its replicas
    }
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD, str(cpus)],
        env=os.environ | own,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.stdin.close()
        process.wait(WAIT)
        process.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


def replicas(pid: int) -> list[int]:
    """The processes of replicas below `pid`."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended
            if any(part.startswith(REPLICA) for part in process.cmdline()):
                found.append(process.pid)
    return found
