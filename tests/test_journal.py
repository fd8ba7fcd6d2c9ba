"""Records in a file of JSON lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from teacache.journal import append_records, header_of, read_records, write_records

HEADER = header_of(steps=(1, 2))
FIRST, SECOND = {"kind": "a", "text": "owl ≠"}, {"kind": "b", "value": 0.1}


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "record.jsonl"
    assert read_records(path) == []
    write_records(path, [HEADER])
    append_records(path, [FIRST])
    append_records(path, [SECOND])
    assert read_records(path) == [HEADER, FIRST, SECOND]
    assert read_records(path)[0] == header_of(steps=[1, 2])


@pytest.mark.parametrize("rest", ['{"kind": "c", "va', '{"kind": "c"}', "1\n", '{"a\n{"b": 1}\n'])
def test_a_damaged_end_does_not_count(rest: str, tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    write_records(path, [HEADER, FIRST])
    with path.open("a", encoding="utf-8") as file:
        file.write(rest)
    assert read_records(path) == [HEADER, FIRST]


def test_a_file_that_is_none_holds_no_records(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    path.write_bytes(b"\xff\xfe picture\n")
    assert read_records(path) == []


def test_a_full_disk_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.jsonl"
    write_records(path, [HEADER, FIRST])

    def full(self: Path, *args: object, **kwargs: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_records(path, [HEADER])
    assert read_records(path) == [HEADER, FIRST]
    assert list(tmp_path.iterdir()) == [path]
