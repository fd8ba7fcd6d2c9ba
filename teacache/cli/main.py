"""The command: subcommands, each in its own module, and what their errors look like.

Exit status: 0 success; 1 a graph failed while it ran; 2 unusable input; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from ..errors import ConfigError, ExecutionError, UserError
from . import calibrate, demo, families, generate, profiles, run, sweep

COMMANDS = (run, demo, generate, sweep, calibrate, profiles, families)


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def build_parser() -> Parser:
    parser = Parser(
        prog="teacache",
        description="Sample diffusion transformers faster: TeaCache in ComfyUI, from the shell.",
        epilog="Exit status: 0 success, 1 failed while running, 2 bad input, 130 interrupted.",
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (default: the process's own) and returns the exit status."""
    verbose = "--verbose" in (sys.argv if argv is None else argv)
    try:
        arguments = build_parser().parse_args(argv)
        status: int = arguments.run(arguments)
        return status
    except SystemExit as stop:  # --help
        return stop.code if isinstance(stop.code, int) else 0
    except (UserError, ConfigError) as error:
        return fail(str(error), 2)
    except ExecutionError as error:
        if verbose:
            print(error.details, file=sys.stderr)
        return fail(str(error), 1)
    except OSError as error:
        return fail(f"{error}", 1)
    except KeyboardInterrupt:
        return fail("interrupted", 130)


def fail(message: str, status: int) -> int:
    print(f"teacache: {message}", file=sys.stderr)
    return status
