"""The command `teacache`: its subcommands, and how their errors are reported.

Exit status: 0 success, 1 a graph failed while it ran, 2 unusable input, 130 interrupted, 141 the
reader of the output closed the pipe.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from .. import __version__
from ..errors import ConfigError, ExecutionError, UserError
from . import calibrate, convert, demo, families, generate, insert, profiles, run, serve, sweep

COMMANDS = (run, demo, generate, serve, sweep, calibrate, convert, insert, profiles, families)


CLOSED_PIPE = 141
"""The status that a shell reports for a program ended by SIGPIPE."""


class Parser(argparse.ArgumentParser):
    """An argument parser that reports errors in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def build_parser() -> Parser:
    parser = Parser(
        prog="teacache",
        description="Sample diffusion transformers faster: TeaCache in ComfyUI, from the shell.",
        epilog="Exit status: 0 success, 1 failed while running, 2 bad input, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line and reports its error, if any, in one line on standard error.

    Args:
        argv: The arguments; by default the process's own.

    Returns:
        The exit status.
    """
    try:
        status = run_command(argv)
        sys.stdout.flush()  # a pipe that was closed shows here, not while Python exits
        return status
    except BrokenPipeError:
        discard_output()
        return CLOSED_PIPE


def run_command(argv: Sequence[str] | None) -> int:
    verbose = "--verbose" in (sys.argv if argv is None else argv)
    try:
        arguments = build_parser().parse_args(argv)
        status: int = arguments.run(arguments)
        return status
    except SystemExit as stop:  # --help, --version
        return stop.code if isinstance(stop.code, int) else 0
    except (UserError, ConfigError) as error:
        return fail(str(error), 2)
    except ExecutionError as error:
        if verbose:
            print(error.details, file=sys.stderr)
        return fail(str(error), 1)
    except BrokenPipeError:
        raise
    except OSError as error:
        return fail(f"{error}", 1)
    except KeyboardInterrupt:
        return fail("interrupted", 130)


def fail(message: str, status: int) -> int:
    print(f"teacache: {message}", file=sys.stderr)
    return status


def discard_output() -> None:
    """Sends what is still buffered for the closed pipe nowhere, so that Python exits quietly."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # a stream without a descriptor, in tests
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
