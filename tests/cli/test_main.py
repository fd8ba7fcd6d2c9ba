"""The command as a process: its version, and a reader that closes the pipe."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from paths import ROOT

import teacache
from teacache.cli import main as command


def test_the_version(capsys):
    assert command.main(["--version"]) == 0
    assert capsys.readouterr().out == f"teacache {teacache.__version__}\n"


def test_the_version_is_that_of_the_package():
    assert f'\nversion = "{teacache.__version__}"\n' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("arguments", [["families"], ["--help"], ["families", "--markdown"]])
def test_a_closed_pipe_is_no_error(arguments):
    start = [sys.executable, "-m", "teacache", *arguments]
    with subprocess.Popen(
        start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    # Without a buffer, argparse meets the closed pipe itself, and ignores it.
    assert process.returncode in (0, command.CLOSED_PIPE)


def test_a_pipe_closed_while_printing_is_no_error(monkeypatch, capsys):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Closed())
    assert command.main(["families"]) == command.CLOSED_PIPE
    assert capsys.readouterr().err == ""
