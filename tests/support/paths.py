"""Folders of the repository, for tests."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
OLD_WORKFLOWS = TESTS / "data" / "workflows_old"
