"""The pages' examples name modules, functions and commands that exist."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest
from paths import ROOT

PAGES = sorted(
    page
    for pattern in ("*.md", "docs/*.md", "models/**/*.md", "benchmarks/**/*.md")
    for page in ROOT.glob(pattern)
)
OURS = ("teacache", "training", "benchmarks")


def ids(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_what_examples_import_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for example in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(example)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(OURS):
                module = importlib.import_module(node.module)
                for name in (alias.name for alias in node.names):
                    found = hasattr(module, name) or importlib.util.find_spec(
                        f"{node.module}.{name}"
                    )
                    assert found, f"{node.module} has no {name}"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_the_commands_that_pages_show_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for module in re.findall(r"python -m ((?:teacache|training|benchmarks)[\w.]*\w)", text):
        assert importlib.util.find_spec(module), f"python -m {module}"
    known = {path.stem for path in (ROOT / "teacache" / "cli").glob("*.py")}
    for command in re.findall(r"python -m teacache ([a-z]+)", text):
        assert command in known, f"python -m teacache {command}"
