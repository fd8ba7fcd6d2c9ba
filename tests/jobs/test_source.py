"""Files of jobs: JSON lines, CSV, standard input, and what is wrong with them."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from teacache.errors import UserError
from teacache.jobs.source import opened_job_file


def rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    with opened_job_file(str(path)) as file:
        return [(row.line, row.values) for row in file.rows()]


def written(folder: Path, text: str | bytes, name: str = "jobs.jsonl") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_json_lines(tmp_path: Path) -> None:
    text = '{"a": 1, "b": "owl ≠", "c": null}\n\n  {"a": ["4", 0], "b": true}'
    expected = [(1, {"a": 1, "b": "owl ≠"}), (3, {"a": ["4", 0], "b": True})]
    assert rows(written(tmp_path, text)) == expected
    assert rows(written(tmp_path, text, "jobs.txt")) == expected, "recognised by its content"
    assert rows(written(tmp_path, b"\xef\xbb\xbf" + text.encode(), "jobs")) == expected


def test_csv(tmp_path: Path) -> None:
    text = 'a, b\r\n1,"two, and\n""three"""\r\n\r\n,x\r\n'
    expected = [(3, {"a": "1", "b": 'two, and\n"three"'}), (5, {"b": "x"})]
    assert rows(written(tmp_path, text, "jobs.csv")) == expected
    assert rows(written(tmp_path, text, "jobs.of.mine")) == expected
    assert rows(written(tmp_path, "\ufeff" + text, "jobs.CSV")) == expected


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("j.jsonl", '{"a": 1}\n{"a": \n', "line 2: not JSON: "),
        ("j.jsonl", '{"a": 1}\n[1]\n', "line 2: must be a JSON object"),
        ("j.jsonl", '{"a": 1, "a": 2}\n', "line 1: not JSON: 'a' is there twice"),
        ("j.jsonl", b'{"a": "\xff"}\n', "line 1: not JSON: 'utf-8' codec"),
        ("j.jsonl", "[" * 100_000, "line 1: not JSON"),
        ("j.csv", "a,b\n1,2\n3\n", "line 3: 1 values for 2 columns"),
        ("j.csv", "a,b\n1,2,3\n", "line 2: 3 values for 2 columns"),
        ("j.csv", "a,a\n1,2\n", "line 1: the column 'a' is there twice"),
        ("j.csv", "a,\n1,2\n", "line 1: a column has no name"),
        ("j.csv", 'a\n"1\n', "not CSV: unexpected end of data"),
        ("j.csv", b"a\n\xff\n", "not CSV: 'utf-8' codec"),
        ("j.csv", "", "is empty; one job a line is needed"),
    ],
)
def test_a_broken_file(name: str, text: str | bytes, line: str, tmp_path: Path) -> None:
    path = written(tmp_path, text, name)
    with pytest.raises(UserError) as caught:
        rows(path)
    assert line in str(caught.value) and str(caught.value).startswith(f"--jobs {name}")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"), opened_job_file(str(tmp_path)):
        pass


def test_standard_input_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"a": 1}\n{"a": 2}\n')))
    with opened_job_file("-") as file:
        for _ in range(2):
            assert [row.values["a"] for row in file.rows()] == [1, 2]
        path = file.path
    assert not path.exists()


def test_a_long_file_is_never_in_memory(tmp_path: Path) -> None:
    path = written(tmp_path, "".join(f'{{"a": "{n:0100}"}}\n' for n in range(50_000)))
    size = path.stat().st_size
    tracemalloc.start()
    with opened_job_file(str(path)) as file:
        count = sum(1 for _ in file.rows())
        assert len(file.digest()) == 64
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 50_000 and peak < size / 2
