"""Commands whose processes, and all that they start, can be found again by a mark."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

from paths import ROOT


class Marked:
    """A command in a process of its own, with a mark in the environment of all its processes."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.mark = f"TEACACHE_TEST_MARK={uuid.uuid4()}"
        name, _, value = self.mark.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "teacache", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), name: value},
            start_new_session=True,
        )

    def processes(self) -> list[int]:
        """Those that are alive, by their ids."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                marked = self.mark.encode() in (folder / "environ").read_bytes().split(b"\0")
                if marked and (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append(int(folder.name))
            except OSError:
                continue
        return found

    def wait_for(self, path: Path, lines: int = 1, seconds: float = 120) -> None:
        """Until `path` has so many lines."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if path.is_file() and path.read_bytes().count(b"\n") >= lines:
                return
            assert self.process.poll() is None, self.process.stdout.read()
            time.sleep(0.05)
        raise AssertionError(f"{path} does not come")

    def all_end(self, seconds: float = 20, but: tuple[str, ...] = ()) -> bool:
        """Whether every process ends within so many seconds, but those with some names."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not [process for process in self.processes() if _name(process) not in but]:
                return True
            time.sleep(0.1)
        return False


def _name(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text().strip("\0 ")
    except OSError:
        return ""
