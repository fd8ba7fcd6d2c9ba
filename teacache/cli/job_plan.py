"""`--jobs` and `--vary`: which jobs a command has, each with its settings and its folder."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..jobs.source import JobFile, opened_job_file

OUTPUT = "output"
"""The column with the folder of a job's files."""
UNUSABLE = re.compile(r'[<>:"|?*\\\x00-\x1f]')
DIGITS = 3


@dataclass(frozen=True)
class Entry:
    """A job as the user gave it.

    Attributes:
        number: from 1.
        values: what is set in this job alone: texts, or JSON values.
        folder: for its files, relative to --out; empty for --out itself.
        source: where the job comes from, for messages; empty where it is the command itself.
    """

    number: int
    values: dict[str, Any]
    folder: str
    source: str

    @property
    def settings(self) -> list[str]:
        """The values as NAME=VALUE."""
        return [f"{name}={as_text(value)}" for name, value in self.values.items()]

    def error(self, message: str) -> UserError:
        return UserError(f"{self.source}: {message}" if self.source else message)


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class Plan:
    """The jobs of a command, which can be read again and again.

    Attributes:
        count: how many there are.
        key: what identifies them.
        single: there is one alone, whose files go to --out itself.
        is_json: values are JSON values, else texts.
    """

    count: int
    key: Any
    single: bool
    is_json: bool
    _rows: Callable[[], Iterable[tuple[str, dict[str, Any]]]]

    def __iter__(self) -> Iterator[Entry]:
        digits = max(DIGITS, len(str(self.count)))
        for number, (source, values) in enumerate(self._rows(), 1):
            folder = "" if self.single else f"{number:0{digits}}"
            given = dict(values)
            if OUTPUT in given:
                folder = _checked_folder(given.pop(OUTPUT), source)
            yield Entry(number, given, folder, source)

    def check(self, check: Callable[[Entry], object]) -> None:
        """Reads every job once.

        Args:
            check: raises `UserError` for a job that is unusable.

        Raises:
            UserError: so does `check`, a line is broken, or two jobs have one folder.
        """
        seen: dict[str, str] = {}
        for entry in self:
            key = entry.folder.casefold()
            if key in seen:
                raise entry.error(f"{OUTPUT}: {entry.folder} is the folder of {seen[key]} as well")
            seen[key] = entry.source
            check(entry)


def add_plan_options(parser: argparse.ArgumentParser, names: str, example: str) -> None:
    """Adds --jobs and --vary.

    Args:
        names: what a job's columns are, for the help.
        example: a name and values for --vary.
    """
    group = parser.add_argument_group("several jobs")
    group.add_argument(
        "--jobs",
        metavar="FILE",
        help=f"run once for each line of a file of JSON lines or CSV, whose columns are {names}, "
        f"and '{OUTPUT}' for the folder of a job's files below --out; - is standard input",
    )
    group.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="NAME=A|B|C",
        help=f"run once for each value, such as {example}; repeated: for each combination",
    )


def has_jobs(args: argparse.Namespace) -> bool:
    """Whether the command is to run more than once."""
    return bool(args.jobs is not None or args.vary)


@contextlib.contextmanager
def opened_plan(args: argparse.Namespace) -> Iterator[Plan]:
    """The jobs that the options stand for; without any, one without settings of its own.

    Raises:
        UserError: an option is unusable, or there is no job.
    """
    if args.jobs is None:
        yield _varied(args.vary)
        return
    if args.vary:
        raise UserError("--vary: not together with --jobs: put the values into the file")
    with opened_job_file(args.jobs) as file:
        count = sum(1 for _ in file.rows())
        if not count:
            raise UserError(f"{file.name}: holds no job; one a line is needed")
        yield Plan(count, file.digest(), False, file.is_json, lambda: _file_rows(file))


def _file_rows(file: JobFile) -> Iterator[tuple[str, dict[str, Any]]]:
    for row in file.rows():
        yield f"{file.name}, line {row.line}", row.values


def _varied(options: list[str]) -> Plan:
    """A job for every combination of the values, in the order given."""
    choices = [_choices(option) for option in options]
    names = [name for name, _ in choices]
    combinations = list(itertools.product(*(values for _, values in choices)))

    def rows() -> Iterator[tuple[str, dict[str, Any]]]:
        for combination in combinations:
            yield "--vary" if options else "", dict(zip(names, combination, strict=True))

    return Plan(len(combinations), options, len(combinations) == 1, False, rows)


def _choices(option: str) -> tuple[str, list[str]]:
    name, equals, values = option.partition("=")
    if not equals or not name:
        raise UserError(f"--vary {option}: write NAME=A|B, such as seed=1|2|3")
    return name, values.split("|")


def _checked_folder(value: Any, source: str) -> str:
    text = value if isinstance(value, str) else ""
    parts = text.split("/")
    if any(not part or part != part.strip(" .") or UNUSABLE.search(part) for part in parts):
        raise UserError(
            f"{source}: {OUTPUT}: must be the name of a folder below --out, such as owls/1, "
            f"not {value!r}"
        )
    return text
