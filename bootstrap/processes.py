"""Running other programs, and ending them with this one."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from bootstrap.console import SetupError

Process = subprocess.Popen[bytes]


def stop(process: Process, grace: float = 15) -> None:
    """Interrupts a process, and ends it if it does not take the hint."""
    for ask in (interrupt, Process.terminate, Process.kill):
        if process.poll() is not None:
            return
        ask(process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)


def stop_group(process: Process) -> None:
    """Stops a process that leads a group of its own, and what it has started."""
    stop(process)
    if sys.platform != "win32":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def interrupt(process: Process) -> None:
    process.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGINT)


def run_child(command: list[str], env: dict[str, str], cwd: Path | None = None) -> int:
    """Runs a program on this terminal; on Ctrl-C waits for it to end in its own way."""
    process = subprocess.Popen(command, env=env, cwd=cwd)
    try:
        return process.wait()
    except KeyboardInterrupt:
        let_end(process)
        raise
    finally:
        stop(process)


def let_end(process: Process) -> None:
    """Gives a program time to end that has had the terminal's Ctrl-C as well."""
    if sys.stdin is not None and sys.stdin.isatty():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)


def succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def query(python: Path, code: str) -> str:
    result = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    if result.returncode:
        raise SetupError(f"{python} failed at '{code}':\n{result.stderr.strip()}")
    return result.stdout.strip()
