"""docs/robustness.md names tests that exist, and every hostile test."""

from __future__ import annotations

import ast
import re

import pytest
from paths import ROOT, TESTS

FILES = {path.name: path for path in TESTS.rglob("test_*.py")}
PAGE = (ROOT / "docs" / "robustness.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE)))


def functions_of(name: str) -> set[str]:
    """The test functions of a module."""
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    return {function for function in functions if function.startswith("test_")}


@pytest.mark.parametrize(("name", "test"), NAMED)
def test_every_named_test_exists(name: str, test: str) -> None:
    assert name in FILES and test in functions_of(name)


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.startswith("test_hostile_")))
def test_every_hostile_test_is_named(name: str) -> None:
    assert functions_of(name) == {test for module, test in NAMED if module == name}


def test_every_row_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if re.match(r"\| (?!row \|)[^-]", line)]
    assert len(rows) > 30
    for row in rows:
        assert row.count("|") == 4 and "test_" in row.rsplit("|", 2)[1], row
