"""Files of jobs: JSON lines or CSV, one job a line, read as often as needed, a line at a time."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError

STANDARD_INPUT = "-"
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
CSV_SUFFIXES = (".csv",)


@dataclass(frozen=True)
class Row:
    """One line of a file of jobs: texts from CSV, JSON values from JSON lines; what is not given
    is not there."""

    line: int
    values: dict[str, Any]


@dataclass(frozen=True)
class JobFile:
    """A file of jobs.

    Attributes:
        name: for messages.
        is_json: it holds JSON lines, else CSV.
    """

    path: Path
    name: str
    is_json: bool

    def rows(self) -> Iterator[Row]:
        """Its jobs; empty lines are none.

        Raises:
            UserError: a line is broken; names its number.
        """
        return self._json_rows() if self.is_json else self._csv_rows()

    def digest(self) -> str:
        """Of the whole content."""
        found = hashlib.sha256()
        with self.path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                found.update(block)
        return found.hexdigest()

    def error(self, line: int, message: str) -> UserError:
        return UserError(f"{self.name}, line {line}: {message}")

    def _json_rows(self) -> Iterator[Row]:
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    values = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_once)
                except json.JSONDecodeError as error:
                    where = f"{error.msg} at character {error.colno}"
                    raise self.error(number, f"not JSON: {where}") from None
                except (ValueError, RecursionError) as error:
                    raise self.error(number, f"not JSON: {error}") from None
                if not isinstance(values, dict):
                    raise self.error(
                        number, 'must be a JSON object such as {"seed": 1}, not another value'
                    )
                yield Row(number, {name: v for name, v in values.items() if v is not None})

    def _csv_rows(self) -> Iterator[Row]:
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns: list[str] | None = None
            try:
                for cells in reader:
                    if not any(cells):
                        continue
                    if columns is None:
                        columns = self._columns(cells, reader.line_num)
                        continue
                    if len(cells) != len(columns):
                        raise self.error(
                            reader.line_num, f"{len(cells)} values for {len(columns)} columns"
                        )
                    given = {name: cell for name, cell in zip(columns, cells, strict=True) if cell}
                    yield Row(reader.line_num, given)
            except (csv.Error, UnicodeDecodeError) as error:
                raise self.error(reader.line_num, f"not CSV: {error}") from None

    def _columns(self, cells: list[str], line: int) -> list[str]:
        names = [cell.strip() for cell in cells]
        for name in names:
            if not name or names.count(name) > 1:
                raise self.error(
                    line, f"the column {name!r} is there twice" if name else "a column has no name"
                )
        return names


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice")
    return values


@contextlib.contextmanager
def opened_job_file(argument: str) -> Iterator[JobFile]:
    """The file of --jobs.

    Standard input is copied to a temporary file, which is there within the context.

    Args:
        argument: a path, or `-` for standard input.

    Raises:
        UserError: there is no such file, or it is empty.
    """
    if argument != STANDARD_INPUT:
        path = Path(argument)
        if not path.is_file():
            raise UserError(f"--jobs {argument}: no such file")
        yield _recognised(path, f"--jobs {path.name}")
        return
    with tempfile.TemporaryDirectory(prefix="teacache-jobs-") as folder:
        path = Path(folder) / "jobs"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield _recognised(path, "--jobs -")


def _recognised(path: Path, name: str) -> JobFile:
    """By its suffix, else by its first letter: a JSON object begins with a brace."""
    with path.open("rb") as file:
        first = next((line for line in file if line.strip()), b"")
    if not first:
        raise UserError(f"{name}: is empty; one job a line is needed")
    suffix = path.suffix.lower()
    if suffix in (*JSON_SUFFIXES, *CSV_SUFFIXES):
        return JobFile(path, name, suffix in JSON_SUFFIXES)
    return JobFile(path, name, first.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"))
