"""The browser for the tests of the editor. The programs are shell scripts; no network."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import run
from bootstrap import browser
from bootstrap.console import SetupError
from bootstrap.prepare import Setup

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the programs are shell scripts")


class Machine:
    """A search path of its own, a Python with playwright, and a user.

    Attributes:
        programs: The folder on the search path.
        own: Where playwright puts its Chromium.
        python: The Python.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.programs, self.own = folder / "programs", folder / "playwright" / "chrome"
        self.programs.mkdir()
        self.own.parent.mkdir()
        self.monkeypatch = monkeypatch
        monkeypatch.setenv("PATH", str(self.programs))
        monkeypatch.delenv("CHROMIUM", raising=False)
        monkeypatch.delenv("CI", raising=False)
        self.user(root=False)
        self.python = self.with_playwright()

    def program(self, name: str, script: str = "") -> Path:
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def with_playwright(self, fetches: bool = False, starts: bool = True) -> Path:
        """A Python that answers what is asked of playwright."""
        fetch = f": > {self.own}" if fetches else "echo 'Error: ENOTFOUND the host'; exit 1"
        return self.program(
            "python",
            f"""case "$*" in
                *"playwright install"*) {fetch} ;;
                *launch*) exit {int(not starts)} ;;
                *executable_path*) echo {self.own} ;;
                *find_spec*) echo "a spec" ;;
            esac""",
        )

    def with_apt(self) -> Path:
        """An apt-get that notes what it is asked, and installs Chromium; returns the notes."""
        notes = self.programs / "notes"
        chromium = self.programs / "chromium"
        install = f"case $1 in install) : > {chromium}; /bin/chmod +x {chromium};; esac"
        self.program("apt-get", f'echo "$@" >> {notes}\n{install}')
        return notes

    def user(self, root: bool, answer: str | None = None) -> None:
        """Who runs: root or not, at a terminal with this answer or at none."""
        self.monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000, raising=False)
        terminal = io.StringIO(f"{answer}\n")
        terminal.isatty = lambda: answer is not None
        self.monkeypatch.setattr(sys, "stdin", terminal)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_the_one_named_comes_first(machine, monkeypatch):
    machine.program("chromium")
    named = machine.program("a browser")
    monkeypatch.setenv("CHROMIUM", str(named))
    assert browser.get_browser(machine.python) == str(named)
    monkeypatch.setenv("CHROMIUM", "/opt/missing")
    with pytest.raises(SetupError, match="CHROMIUM=/opt/missing is not a program: install"):
        browser.get_browser(machine.python)


def test_then_one_on_the_search_path_then_playwrights(machine):
    machine.own.write_text("")
    assert browser.get_browser(machine.python) == str(machine.own)
    chrome = machine.program("google-chrome")
    assert browser.get_browser(machine.python) == str(chrome)


def test_playwrights_is_fetched_by_any_user(machine):
    notes = machine.with_apt()
    python = machine.with_playwright(fetches=True)
    assert browser.find_browser(python) is None
    assert browser.get_browser(python) == str(machine.own)
    assert not notes.exists()


@pytest.mark.parametrize("ci", [True, False])
def test_the_package_is_installed_as_root_in_a_ci_or_after_a_yes(machine, monkeypatch, capsys, ci):
    notes = machine.with_apt()
    if ci:
        monkeypatch.setenv("CI", "true")
    machine.user(root=True, answer=None if ci else "y")
    assert browser.get_browser(machine.python) == str(machine.programs / "chromium")
    assert notes.read_text() == "update\ninstall -y chromium\n"
    shown = capsys.readouterr().out
    assert "it can't be fetched. Error: ENOTFOUND the host" in shown
    assert ("[y/N]" in shown) != ci


def test_one_that_does_not_start_is_not_taken(machine, monkeypatch, capsys):
    """Playwright's lacks libraries on a system without a desktop."""
    machine.with_apt()
    monkeypatch.setenv("CI", "true")
    machine.user(root=True)
    python = machine.with_playwright(fetches=True, starts=False)
    assert browser.get_browser(python) == str(machine.programs / "chromium")
    assert "it does not start here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ci", "root", "answer", "apt"),
    [
        (False, True, None, True),
        (False, True, "n", True),
        (False, True, "", True),
        (False, False, "y", True),
        (True, False, None, True),
        (True, True, None, False),
    ],
)
def test_without_a_browser_the_message_says_what_to_do(machine, monkeypatch, ci, root, answer, apt):
    notes = machine.with_apt() if apt else machine.programs / "notes"
    if ci:
        monkeypatch.setenv("CI", "true")
    machine.user(root=root, answer=answer)
    remedies = "apt-get install -y chromium.*CHROMIUM.*--without-editor"
    with pytest.raises(SetupError, match=f"no browser for the tests of the editor: .*{remedies}"):
        browser.get_browser(machine.python)
    assert not notes.exists()


def test_a_python_without_playwright_is_refused(machine):
    python = machine.program("python", "echo")
    with pytest.raises(SetupError, match=r"lacks playwright.*--without-editor"):
        browser.get_browser(python)


@pytest.mark.parametrize(
    ("arguments", "opens"),
    [
        ([], True),
        (["-x", "-k", "strip"], True),
        (["tests"], True),
        (["tests/"], True),
        (["tests/engine", "tests/web/test_strip.py::test_a[nodes2]"], True),
        (["tests/web"], True),
        (["tests/engine"], False),
        (["tests/test_docs.py", "tests/webs"], False),
        (["--core"], False),
        (["--collect-only", "-qq"], False),
        (["--without-editor", "tests/web"], False),
    ],
)
def test_only_runs_that_open_the_editor_need_one(arguments, opens):
    assert browser.opens_the_editor(arguments) == opens


def test_a_run_without_a_browser_fails_unless_the_editor_is_left_out(
    machine, tmp_path, monkeypatch, capsys
):
    calls = []
    ready = Setup(machine.python, tmp_path, {})
    monkeypatch.setattr(run, "prepare", lambda args, tests=False: ready)
    monkeypatch.setattr(run, "run_child", lambda command, env, *rest: calls.append((command, env)))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    assert run.main(["test", "--only-tests"]) == 1
    assert "run.py: no browser for the tests of the editor: install" in capsys.readouterr().err
    assert calls == []
    run.main(["test", "--only-tests", "--without-editor"])
    run.main(["test", "--only-tests", "tests/engine"])
    monkeypatch.setenv("PYTEST_ADDOPTS", "--core")
    run.main(["test", "--only-tests"])
    assert [("--without-editor" in command, "CHROMIUM" in env) for command, env in calls] == [
        (True, False),
        (False, False),
        (False, False),
    ]
    monkeypatch.delenv("PYTEST_ADDOPTS")
    machine.own.write_text("")
    run.main(["test", "--only-tests"])
    assert calls[-1][1]["CHROMIUM"] == str(machine.own)


def test_without_editor_leaves_out_what_opens_a_browser(pytestconfig):
    options = ["-q", "--collect-only", "--without-editor", "tests/web"]
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", "tests/pytest.ini", "--rootdir", ".", *options],
        cwd=pytestconfig.rootpath,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "tests/web/test_web.py" in collected.stdout
    assert "test_editor.py" not in collected.stdout
    assert "test_strip.py" not in collected.stdout
