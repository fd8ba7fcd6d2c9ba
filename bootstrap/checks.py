"""What `run.py test` does beside pytest: the linters, and a browser for the browser tests."""

import os
import shutil
import subprocess

from bootstrap import paths
from bootstrap.console import progress
from bootstrap.prepare import Setup

CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy", "-p", "teacache", "-p", "benchmarks"),
)


def run_checks(setup: Setup) -> list[str]:
    """Linter, formatter and type checker; returns the names of those that failed."""
    failed = []
    for check in CHECKS:
        name = " ".join(check)
        progress.live(name)
        command = [str(setup.python), "-m", *check]
        result = subprocess.run(
            command, cwd=paths.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        progress.say(f"{name}: {'FAILED' if result.returncode else 'passed'}")
        if result.returncode:
            print(result.stdout.decode(errors="replace"), flush=True)
            failed.append(name)
    return failed


def find_browser() -> str | None:
    """A Chromium for the browser tests; on CI, root on Debian may install one."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
    if found := os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None):
        return found
    install = "apt-get update && apt-get install -y chromium"
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if os.environ.get("CI") == "true" and root and shutil.which("apt-get"):
        progress.say(f"no Chromium: {install}")
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        result = subprocess.run(install, shell=True, env=env, capture_output=True, check=False)
        if found := shutil.which("chromium"):
            return found
        print(result.stderr.decode(errors="replace")[-1000:], flush=True)
    progress.say(f"no Chromium for the browser tests; on Debian: {install}")
    return None
