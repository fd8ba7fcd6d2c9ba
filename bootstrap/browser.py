"""The browser for the tests of the editor: found, or fetched where that is allowed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bootstrap.console import SetupError, progress
from bootstrap.processes import query, succeeds

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
PACKAGE = "apt-get update && apt-get install -y chromium"
REMEDY = (
    f"install Chromium (on Debian: {PACKAGE}), name one in the environment variable CHROMIUM, or"
    " leave the tests of the editor out with --without-editor"
)
WITHOUT = {"--without-editor", "--core", "--collect-only", "--co"}
"""The options of pytest with which no test opens a browser."""
OPENED = """
from playwright.sync_api import sync_playwright
with sync_playwright() as playwright:
    path = playwright.chromium.executable_path
"""
LAUNCHED = """
    playwright.chromium.launch(executable_path=path, args=["--no-sandbox"]).close()
"""


def opens_the_editor(arguments: Sequence[str]) -> bool:
    """Whether pytest with these arguments runs tests that open the editor in a browser."""
    if WITHOUT.intersection(arguments):
        return False
    paths = [Path(item.split("::")[0]) for item in arguments if item.startswith("tests")]
    web = Path("tests", "web")
    return not paths or any(path.is_relative_to(web) or path in web.parents for path in paths)


def get_browser(python: Path) -> str:
    """A Chromium: one that is there, playwright's own, or the distribution's package.

    The package is installed only as root, and only in a CI or after the user has agreed.

    Args:
        python: has playwright.

    Raises:
        SetupError: there is none; the message says what to do.
    """
    if query(python, "import importlib.util as u; print(u.find_spec('playwright') or '')") == "":
        raise SetupError(
            f"{python} lacks playwright for the tests of the editor: install it into it, or leave"
            " these tests out with --without-editor"
        )
    found = find_browser(python) or fetch(python) or install_package()
    if found is None:
        raise SetupError(f"no browser for the tests of the editor: {REMEDY}")
    return found


def find_browser(python: Path) -> str | None:
    """The Chromium named in CHROMIUM, one on the search path, or the one playwright has fetched."""
    if named := os.environ.get("CHROMIUM"):
        if shutil.which(named) is None:
            raise SetupError(f"CHROMIUM={named} is not a program: {REMEDY}")
        return named
    return next(filter(None, map(shutil.which, NAMES)), None) or fetched(python)


def fetched(python: Path) -> str | None:
    path = query(python, f"{OPENED}print(path)")
    return path if Path(path).is_file() else None


def fetch(python: Path) -> str | None:
    """Downloads playwright's own Chromium; None where it can't be fetched or does not start."""
    progress.say("no Chromium here; fetching playwright's")
    command = [str(python), "-m", "playwright", "install", "--no-shell", "chromium"]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if result.returncode:
        lines = result.stdout.decode(errors="replace").splitlines()
        reason = next((line for line in lines if line.startswith("Error")), "")
        progress.say(f"it can't be fetched. {reason}")
        return None
    if not succeeds([str(python), "-c", OPENED + LAUNCHED]):
        progress.say("it does not start here")
        return None
    return fetched(python)


def install_package() -> str | None:
    """Installs the distribution's Chromium with apt-get; None where that can't or must not be."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if not root or not shutil.which("apt-get") or not agreed():
        return None
    progress.say(PACKAGE)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    result = subprocess.run(PACKAGE, shell=True, env=env, capture_output=True, check=False)
    found = shutil.which("chromium")
    if found is None:
        print(result.stderr.decode(errors="replace")[-1000:], flush=True)
    return found


def agreed() -> bool:
    if os.environ.get("CI") == "true":
        return True
    if sys.stdin is None or not sys.stdin.isatty():
        return False
    answer = input(f"Install Chromium for the tests of the editor ({PACKAGE})? [y/N] ")
    return answer.strip().lower() in ("y", "yes")
