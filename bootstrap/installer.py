"""Runs installers: their output goes to a log, and one line of progress to the terminal."""

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from bootstrap.console import SetupError, progress
from bootstrap.processes import stop_group
from bootstrap.venv import Venv

REMEDIES = (
    (r"No space left|Errno 28", "the disk is full: about 3 GB are needed (8 GB with CUDA)"),
    (r"ensurepip", "this Python lacks venv: on Debian and Ubuntu, apt install python3-venv"),
    (r"CERTIFICATE_VERIFY", "the registry's certificate is refused: set PIP_CERT for your proxy"),
    (
        r"Connection|Max retries|timed out|name resolution|getaddrinfo",
        "the package registry was not reached: check network and proxy, run the same command again",
    ),
    (
        r"No matching distribution found for torch==",
        f"no PyTorch 2.13.0 for Python {platform.python_version()} on {platform.platform()}; there"
        " is one for Python 3.10 to 3.14 on Linux, 64-bit Windows, macOS 14 on Apple silicon",
    ),
    (
        r"Python\.h|gcc|cl\.exe",
        "no binary for a package: a compiler and Python's headers are needed",
    ),
)


class Log:
    """The log of the installers, and the progress line under the title of the current stage."""

    def __init__(self, file: IO[bytes], lock: int, venv: Venv) -> None:
        self.file, self.lock, self.venv, self.title = file, lock, venv, ""

    def run(self, *command: str | Path, env: Mapping[str, str] = os.environ) -> bool:
        """Runs a program, showing its progress.

        Args:
            command: The program and its arguments.
            env: Its environment.

        Returns:
            Whether it succeeded.
        """
        seen, doing = self.file.seek(0, os.SEEK_END), "starting"
        windows = sys.platform == "win32"
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self.file,
            stderr=subprocess.STDOUT,
            env={**env, "PIP_USER": "0", "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"},
            start_new_session=not windows,
            # Inherited: the lock is held until the installer has ended, even if run.py is killed.
            pass_fds=() if windows else (self.lock,),
        )
        try:
            while process.poll() is None:
                time.sleep(0.1)
                with Path(self.file.name).open("rb") as reader:
                    reader.seek(seen)
                    lines = reader.read().splitlines(keepends=True)
                for line in lines:
                    if line.endswith(b"\n"):
                        seen += len(line)
                        doing = condense(line.decode(errors="replace")) or doing
                installed = sum(1 for _ in self.venv.site_packages().glob("*.dist-info"))
                progress.live(f"{self.title}: {doing}; {installed} installed")
            return process.returncode == 0
        finally:
            stop_group(process)

    def must_run(self, *command: str | Path) -> None:
        if not self.run(*command):
            raise self.failure()

    def failure(self) -> SetupError:
        """The error for a failed installer: the end of its log, and a remedy."""
        text = Path(self.file.name).read_text(encoding="utf-8", errors="replace")
        tail = "\n    ".join(line[:180] for line in text.splitlines()[-8:])
        remedy = next((remedy for pattern, remedy in REMEDIES if re.search(pattern, tail)), "")
        return SetupError(
            f"{self.title} failed; the last lines of {self.file.name}:\n    {tail}\n"
            + (remedy or "run the same command again to retry")
        )


def condense(line: str) -> str:
    """What a line of an installer's output says about its progress; empty if nothing."""
    if match := re.match(r"\s*(Collecting|Downloading|Using cached|Processing) (\S+)(.*)", line):
        verb, subject, rest = match.groups()
        name = subject.rsplit("/", 1)[-1].split("-", 1)[0]
        size = re.search(r"\([\d.]+ [kMG]B\)", rest)
        return f"{verb.lower()} {name}" + (f" {size.group()}" if size else "")
    if line.startswith("Installing collected packages:"):
        return f"installing {line.count(',') + 1}"
    if match := re.match(r"(Resolved|Prepared|Installed) (\d+) packages?", line):  # uv
        return f"{match.group(1).lower()} {match.group(2)}"
    return ""
