"""Which jobs are finished, in a file, so that a command that was ended goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..journal import Record, append_records, cut_records, header_of, scan_records, write_records


class JobJournal:
    """The entries of finished jobs. They stay on disk; in memory is only where each begins.

    Args:
        path: the file, made with the first entry or taken up again.
        key: what the results depend on beside each job itself; a file with another key is begun
            anew.
        notice: told so.
    """

    def __init__(
        self, path: Path, key: dict[str, Any], notice: Callable[[str], None] = lambda text: None
    ) -> None:
        self.path = path
        self._header = header_of(**key)
        self._places: dict[int, int] = {}
        self._end: int | None = None
        """Behind the last whole record; None before the file is there."""
        self._open(notice)

    def _open(self, notice: Callable[[str], None]) -> None:
        for record, end in scan_records(self.path):
            if self._end is None:
                if record != self._header:
                    notice(f"{self.path} is of other jobs or settings: begun anew")
                    return
            else:
                self._places[record["number"]] = self._end
            self._end = end

    def __contains__(self, number: int) -> bool:
        return number in self._places

    def __len__(self) -> int:
        return len(self._places)

    def add(self, number: int, entry: Record) -> None:
        """Job `number` is finished; of two entries the later one counts."""
        if self._end is None:
            write_records(self.path, [self._header])
        else:
            cut_records(self.path, self._end)
        self._places[number] = self.path.stat().st_size
        append_records(self.path, [{"number": number, "entry": entry}])
        self._end = self.path.stat().st_size

    def entries(self) -> Iterator[tuple[int, Record]]:
        """The finished jobs in their order, read from the file one at a time."""
        if not self._places:
            return
        with self.path.open("rb") as file:
            for number in sorted(self._places):
                file.seek(self._places[number])
                yield number, json.loads(file.readline())["entry"]

    def remove(self) -> None:
        """All is done: nothing has to be taken up again."""
        self.path.unlink(missing_ok=True)
