"""Records in a file of JSON lines that survive an interruption: a run can be resumed from them.

The first record is the header, which says what the run was made with. A line that was cut off
while it was written, and whatever follows it, does not count.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .files import write_atomically

Record = dict[str, Any]


def header_of(**entries: Any) -> Record:
    """A header as it is read back from a file: tuples are lists, keys are texts."""
    header: Record = json.loads(json.dumps({"kind": "header", **entries}))
    return header


def read_records(path: Path) -> list[Record]:
    """The records of the file, the header first; none where there is no file."""
    return [record for record, _ in scan_records(path)]


def scan_records(path: Path) -> Iterator[tuple[Record, int]]:
    """The records of the file one at a time, each with the offset in bytes behind it."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line.decode("utf-8", errors="replace"))
            except ValueError:
                return
            if not isinstance(record, dict):
                return
            yield record, file.tell()


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Replaces the file, whole or not at all."""
    text = _lines(records)
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


def append_records(path: Path, records: Iterable[Record]) -> None:
    """Adds records to the end of the file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(_lines(records))


def cut_records(path: Path, end: int) -> None:
    """Removes what is behind an offset of `scan_records`: a line that was cut off."""
    if path.stat().st_size > end:
        with path.open("r+b") as file:
            file.truncate(end)


def _lines(records: Iterable[Record]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)
