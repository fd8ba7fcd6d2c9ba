"""A ComfyUI server with the pack installed, as a child process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from paths import ROOT

START_SECONDS = 120


@dataclass(frozen=True)
class Server:
    """A running server: its address, its base directory, its log file, and its process."""

    url: str
    base: Path
    log: Path
    process: subprocess.Popen[bytes]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(
    comfy_dir: Path, base: Path, other_pack: str = "", api_nodes: bool = False
) -> Iterator[Server]:
    """Starts the server with `base` as its base directory, waits until it answers, stops it.

    Args:
        other_pack: Source of another pack that is installed beside this one.
        api_nodes: Whether the nodes that call paid services are declared.
    """
    packs = base / "custom_nodes"
    packs.mkdir(parents=True)
    (packs / "teacache").symlink_to(ROOT, target_is_directory=True)
    if other_pack:
        (packs / "other_pack.py").write_text(other_pack)
    port, log = _free_port(), base / "server.log"
    command = [
        sys.executable, str(comfy_dir / "main.py"), "--cpu", "--listen", "127.0.0.1",
        "--port", str(port), "--base-directory", str(base),
        "--database-url", "sqlite:///:memory:",
    ]  # fmt: skip
    if not api_nodes:
        command.append("--disable-api-nodes")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=base, env=environment
        )
    try:
        server = Server(f"http://127.0.0.1:{port}", base, log, process)
        _wait(server, process)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"{server.url}/system_stats", timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.3)
    raise AssertionError(f"the server did not start:\n{server.log.read_text()[-3000:]}")
