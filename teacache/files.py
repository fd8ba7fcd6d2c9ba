"""Atomic writing of files: a file is complete or does not exist."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a temporary file and renames it to `path`; on failure nothing is left behind.

    Args:
        path: The file to create or replace; missing parent folders are created.
        write: Fills the file at the given path, which is in the same folder and has the same
            suffix as `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def unused_path(path: Path) -> Path:
    """`path`, with _2, _3, ... behind its stem if there is such a file."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}_{number}")
    return free


def save_beside(path: Path, content: bytes) -> Path:
    """Writes `content` to `path`, or beside it if another file has that name; returns where."""
    if path.is_file() and path.read_bytes() == content:
        return path
    free = unused_path(path)
    write_atomically(free, lambda file: file.write_bytes(content))
    return free


def write_json(path: Path, data: Any) -> None:
    """Writes `data` atomically as indented JSON.

    NaN and infinities become null: JSON has no numbers for them.
    """
    text = json.dumps(without_non_finite(data), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, lambda file: file.write_text(text + "\n", encoding="utf-8"))


def write_json_lines(path: Path, head: dict[str, Any], name: str, items: Iterable[Any]) -> None:
    """Writes `head` atomically as JSON, with a list `name` at its end, of an item in each line.

    The items may be more than fit into memory.
    """

    def write(file: Path) -> None:
        text = json.dumps(without_non_finite(head), indent=2, ensure_ascii=False, allow_nan=False)
        with file.open("w", encoding="utf-8") as out:
            out.write(text.removesuffix("\n}") + f",\n  {json.dumps(name)}: [")
            for number, item in enumerate(items):
                line = json.dumps(without_non_finite(item), ensure_ascii=False, allow_nan=False)
                out.write(("," if number else "") + f"\n    {line}")
            out.write("\n  ]\n}\n")

    write_atomically(path, write)


def without_non_finite(data: Any) -> Any:
    """JSON-like `data` with None in place of every NaN and infinity."""
    if isinstance(data, dict):
        return {key: without_non_finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [without_non_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
