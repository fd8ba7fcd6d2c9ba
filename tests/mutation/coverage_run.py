"""Which tests reach which lines of the modules, and how long each of them takes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import coverage
import pytest
from mutants import Mutant


@dataclass
class Reach:
    """What one test reaches.

    Args:
        seconds: its duration, without coverage's share of it.
        lines: line numbers by module, relative to the repository.
    """

    seconds: float
    lines: dict[str, list[int]] = field(default_factory=dict)


class CoverageRun:
    """A pytest plugin that measures every test that passes."""

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        self._root, self._paths = root, paths
        files = [str(root / path) for path in paths]
        self._coverage = coverage.Coverage(data_file=None, config_file=False, include=files)
        self._seconds: dict[str, float] = {}
        self.failed: set[str] = set()
        """Tests that were skipped or failed."""

    def start(self) -> None:
        self._coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._coverage.switch_context(item.nodeid)
        start = time.perf_counter()
        try:
            return (yield)
        finally:
            self._seconds[item.nodeid] = time.perf_counter() - start
            self._coverage.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or report.skipped:
            self.failed.add(report.nodeid)

    def measured(self) -> dict[str, Reach]:
        """What each test that passed has reached, by its node id."""
        self._coverage.stop()
        data = self._coverage.get_data()
        found = {
            name: Reach(seconds)
            for name, seconds in self._seconds.items()
            if name not in self.failed
        }
        for path in self._paths:
            for line, contexts in data.contexts_by_lineno(str(self._root / path)).items():
                for name in contexts:
                    if name in found:
                        found[name].lines.setdefault(path, []).append(line)
        return found


class ReachFile:
    """What each test reaches, in a file; measured again for test files that have changed.

    Args:
        root: of the repository.
        paths: the modules. If one of them changes, all is measured again.
    """

    def __init__(self, file: Path, root: Path, paths: Sequence[str]) -> None:
        self._file, self._root = file, root
        self._modules = b"".join((root / path).read_bytes() for path in paths)
        self._known = json.loads(file.read_text()) if file.exists() else {}

    def stale(self, test_files: Sequence[str]) -> list[str]:
        """Those of `test_files` that must be measured."""
        return [
            name
            for name in test_files
            if self._known.get(name, {}).get("digest") != self._digest(name)
        ]

    def store(self, test_files: Sequence[str], found: Mapping[str, Reach]) -> None:
        """`found` is all that the tests in `test_files` reach."""
        for name in test_files:
            tests = {test: vars(reach) for test, reach in found.items() if test.startswith(name)}
            self._known[name] = {"digest": self._digest(name), "tests": tests}
        self._file.write_text(json.dumps(self._known))

    def tests(self, test_files: Sequence[str]) -> dict[str, Reach]:
        """What the tests in `test_files` reach."""
        return {
            test: Reach(**reach)
            for name in test_files
            for test, reach in self._known[name]["tests"].items()
        }

    def _digest(self, name: str) -> str:
        return hashlib.sha256(self._modules + (self._root / name).read_bytes()).hexdigest()


class Reached:
    """The tests that reach a mutant, the quickest first.

    Args:
        tests: what each reaches.
        seconds: of the tests that are run for one mutant at most, one of them at least.
        longest: seconds of the longest test that is run.
    """

    def __init__(self, tests: Mapping[str, Reach], seconds: float, longest: float) -> None:
        self.seconds = {name: reach.seconds for name, reach in tests.items()}
        self._limit, self._longest = seconds, longest
        self._lines = {
            name: {path: frozenset(lines) for path, lines in reach.lines.items()}
            for name, reach in tests.items()
        }
        self._order = sorted(tests, key=self.seconds.__getitem__)

    def tests_of(self, mutant: Mutant) -> list[str]:
        """The tests for `mutant`; outside of functions, those that reach its module."""
        first, last = mutant.lines
        wanted = frozenset(range(first, last + 1))
        chosen: list[str] = []
        total = 0.0
        for name in self._order:
            lines = self._lines[name].get(mutant.path, frozenset())
            if not (lines if not mutant.in_body else lines & wanted):
                continue
            total += self.seconds[name]
            if chosen and (total > self._limit or self.seconds[name] > self._longest):
                break
            chosen.append(name)
        return chosen
