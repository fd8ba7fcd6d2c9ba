"""A Ray cluster of one node on this machine, and the processes of its replicas."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD, str(cpus)],
        env={**os.environ, "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"},
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


def descendants(pid: int) -> dict[int, str]:
    """The living processes below `pid`, with their command lines."""
    parents, commands = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            status = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended
            continue
        if status[0] != "Z":
            parents[int(entry.name)] = int(status[1])
            commands[int(entry.name)] = command.strip()
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {child: commands[child] for child in found - {pid} if child in commands}


def replicas(pid: int) -> list[int]:
    """The processes of replicas below `pid`."""
    return [child for child, command in descendants(pid).items() if command.startswith(REPLICA)]
