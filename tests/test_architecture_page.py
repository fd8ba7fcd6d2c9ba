"""docs/architecture.md names what is there: packages, files and names."""

from __future__ import annotations

import re

import pytest
from paths import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
TABLE = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("| ")][1:]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0].strip())
def test_the_files_of_the_table_exist(row: list[str]) -> None:
    files = re.findall(r"`([\w/*.]+\.(?:py|json))`", row[1])
    assert files
    for name in files:
        pattern = name.replace("NAME", "*")
        folders = (ROOT / "teacache", ROOT)
        assert any(next(folder.glob(pattern), None) for folder in folders), name


def test_the_tree_names_every_package() -> None:
    tree = PAGE.split("```")[1]
    packages = {
        path.parent.name
        for path in (ROOT / "teacache").glob("*/__init__.py")
        if path.parent.name != "pack"
    }
    assert {name for name in packages if not re.search(rf"\b{name}\b", tree)} == set()
    engine = {path.stem for path in (ROOT / "teacache" / "engine").glob("*.py")} - {"__init__"}
    assert {name for name in engine if not re.search(rf"\b{name}\b", tree)} == set()


def test_the_names_of_the_contracts_exist() -> None:
    source = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("teacache", "nodes")
        for path in (ROOT / folder).rglob("*.py")
    )
    for name in set(re.findall(r"`([A-Z]\w+)(?:\.\w+)?`", PAGE)):
        assert re.search(rf"\b(?:class )?{name}\b", source), name
