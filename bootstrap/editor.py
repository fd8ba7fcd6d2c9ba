"""Starts ComfyUI's server with this repository as its only node pack, and opens a browser."""

import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
import webbrowser
from pathlib import Path

from bootstrap import paths
from bootstrap.console import SetupError, progress
from bootstrap.prepare import QUIET, Setup
from bootstrap.processes import Process, let_end, query, stop


def serve(setup: Setup, wanted_port: int, browser: bool, extra: list[str]) -> int:
    """Runs the server until it ends or Ctrl-C stops it; returns its exit status."""
    base = editor_directory(paths.ROOT / ".comfyui-user")
    port = free_port(wanted_port)
    if port != wanted_port:
        progress.say(f"port {wanted_port} is in use; taking {port}")
    command = [str(setup.python), str(setup.comfyui / "main.py"), "--listen", "127.0.0.1"]
    command += ["--port", str(port), "--base-directory", str(base), "--disable-api-nodes"]
    command += ["--database-url", "sqlite:///:memory:"]
    progress.live("starting ComfyUI")
    accelerator = "import torch as t; print(t.cuda.is_available() or t.backends.mps.is_available())"
    if "--cpu" not in extra and query(setup.python, accelerator) != "True":
        command.append("--cpu")
    process = subprocess.Popen([*command, *extra], env=QUIET | setup.env, cwd=setup.comfyui)
    try:
        url = f"http://127.0.0.1:{port}"
        if wait_for(url, process):
            ask(f"{url}/api/settings/Comfy.TutorialCompleted", b"true")
            progress.say(f"the editor is at {url} (Ctrl-C stops it)")
            if browser:
                webbrowser.open(url)
        return process.wait()
    except KeyboardInterrupt:
        progress.say("stopping the editor")
        let_end(process)
        return 0
    finally:
        stop(process)


def editor_directory(base: Path) -> Path:
    """Makes ComfyUI's base directory for the editor, with this repository as its only pack."""
    (base / "custom_nodes").mkdir(parents=True, exist_ok=True)
    (base / ".gitignore").write_text("*\n")
    link = base / "custom_nodes" / "teacache-studio"
    if link.exists() and link.resolve() == paths.ROOT:
        return base
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(paths.ROOT, target_is_directory=True)
    except OSError:
        if sys.platform != "win32":
            raise
        import _winapi

        _winapi.CreateJunction(str(paths.ROOT), str(link))
    return base


def free_port(wanted: int) -> int:
    for port in range(max(wanted, 1), min(wanted + 100, 65536)):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise SetupError(f"--port {wanted}: this and the next 99 ports are in use", 2)


def wait_for(url: str, process: Process) -> bool:
    while process.poll() is None:
        with contextlib.suppress(OSError):
            ask(f"{url}/system_stats")
            return True
        time.sleep(0.3)
    return False


def ask(url: str, body: bytes | None = None) -> None:
    """Sends a request to a server on this machine, without a proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    opener.open(request, timeout=10).close()
