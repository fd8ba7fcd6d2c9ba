"""The record of a comparison: one JSON object a line, so that an interrupted run can be
resumed.

The first line is the header, what the run was made with. Then come records of kind `unusable`
(a variant that does not run, and why), `lpips` (why it cannot be measured, if so), `memory` (of a
variant), `sample` (of a variant and a pair) and `pair` (a pair is complete). Samples of an
incomplete pair do not count; of two records of one thing the later one does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from teacache.errors import UserError
from teacache.journal import Record, append_records, header_of, read_records, write_records

__all__ = ["Journal", "Record"]


@dataclass
class Journal:
    """pairs: complete ones, (caption, seed), in order. samples: by variant and pair.

    no_lpips: why LPIPS could not be measured the last time; None where it could.
    """

    path: Path
    header: Record
    no_lpips: str | None = None
    unusable: dict[str, str] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    pairs: dict[tuple[str, int], Record] = field(default_factory=dict)
    samples: dict[str, dict[tuple[str, int], Record]] = field(default_factory=dict)
    _incomplete: dict[tuple[str, int], dict[str, Record]] = field(default_factory=dict, init=False)

    @classmethod
    def read(cls, path: Path) -> Journal:
        header, *records = _with_header(path)
        journal = cls(path, header)
        for record in records:
            journal._add(record)
        return journal

    @classmethod
    def begin(cls, path: Path, header: Record) -> Journal:
        """A new one, or the one at `path`, if it was made with the same header."""
        resumed(path, header, "--out")
        return cls.read(path)

    def append(self, records: Iterable[Record]) -> None:
        """Writes `records` and takes them in."""
        records = list(records)
        append_records(self.path, records)
        for record in records:
            self._add(record)

    def has(self, caption: str, seed: int, with_lpips: bool) -> bool:
        """Whether a pair is complete, and measured by LPIPS where that is asked."""
        pair = self.pairs.get((caption, seed))
        return pair is not None and (pair["lpips"] or not with_lpips)

    def complete(self, variant: str) -> dict[tuple[str, int], Record]:
        """A variant's samples of complete pairs, in the pairs' order."""
        samples = self.samples.get(variant, {})
        return {pair: samples[pair] for pair in self.pairs if pair in samples}

    def _add(self, record: Record) -> None:
        kind, name = record["kind"], record.get("variant", "")
        if kind == "unusable":
            self.unusable[name] = record["why"]
        elif kind == "lpips":
            self.no_lpips = record["why_not"]
        elif kind == "memory":
            self.memory[name] = record["bytes"]
        elif kind == "sample":
            self._incomplete.setdefault((record["prompt"], record["seed"]), {})[name] = record
        elif kind == "pair":
            pair = record["prompt"], record["seed"]
            self.pairs[pair] = record
            for variant, sample in self._incomplete.pop(pair, {}).items():
                self.samples.setdefault(variant, {})[pair] = sample


def resumed(path: Path, header: Record, option: str) -> list[Record]:
    """The records of a run that goes on, without the header; none of a new one, which is begun.

    Args:
        header: what the run is made with.
        option: that names the file, for the message.

    Raises:
        UserError: the file was made with another header, or is no record of a comparison.
    """
    header = header_of(**header)
    if not path.is_file():
        write_records(path, [header])
    known, *records = _with_header(path)
    differing = [key for key in {**header, **known} if header.get(key) != known.get(key)]
    if differing:
        raise UserError(
            f"{path} was made with other settings ({', '.join(sorted(differing))}): "
            f"remove it or choose another {option}"
        )
    write_records(path, [known, *records])  # without a line that was cut off
    return records


def _with_header(path: Path) -> list[Record]:
    records = read_records(path)
    if not records or records[0].get("kind") != "header":
        raise UserError(f"{path} is not the record of a comparison: its first line is no header")
    return records
