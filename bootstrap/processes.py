"""Runs other programs, and ends them with this one."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from bootstrap.console import SetupError

Process = subprocess.Popen[bytes]


def stop(process: Process, grace: float = 15) -> None:
    """Interrupts a process; terminates, then kills it if it is alive `grace` seconds later."""
    for ask in (interrupt, Process.terminate, Process.kill):
        if process.poll() is not None:
            return
        ask(process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)


def stop_group(process: Process) -> None:
    """Stops a process that leads a process group, and the rest of the group."""
    stop(process)
    if sys.platform != "win32":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def interrupt(process: Process) -> None:
    process.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGINT)


def run_child(command: list[str], env: dict[str, str], cwd: Path | None = None) -> int:
    """Runs a program on this terminal and returns its status; on Ctrl-C lets it end by itself."""
    process = subprocess.Popen(command, env=env, cwd=cwd)
    try:
        return process.wait()
    except KeyboardInterrupt:
        let_end(process)
        raise
    finally:
        stop(process)


def let_end(process: Process) -> None:
    """Waits for a program to end that received the terminal's Ctrl-C too."""
    if sys.stdin is not None and sys.stdin.isatty():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)


def succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def query(python: Path, code: str) -> str:
    """What `python` prints when it runs `code`."""
    result = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    if result.returncode:
        raise SetupError(f"{python} failed at '{code}':\n{result.stderr.strip()}")
    return result.stdout.strip()
