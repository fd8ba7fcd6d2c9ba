"""Runs tests on mutants, each in a process forked from one that has imported everything.

A change inside a function is put into the code of that function; any other change is imported anew,
by a process forked before the module was imported.
"""

from __future__ import annotations

import gc
import importlib.machinery
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType

import pytest
from _pytest.runner import runtestprotocol
from coverage_run import Reached
from mutants import Mutant
from verdicts import KILLED, SURVIVED, TIMED_OUT, Verdict

PATIENCE = 10
"""How many times its usual duration a test may take."""
GRACE = 5
"""Seconds that a test may take in addition."""
IMPORTING = 60
"""The same where a test may be the first one to import what it needs."""
MUST_BE_IMPORTED = 71


def in_child(action: Callable[[], int]) -> int:
    """The wait status of a child process that runs `action` and exits with what it returns."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            status = action()
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def show_in(file: Path | str) -> None:
    """What this process prints goes to `file`."""
    null, log = os.open(os.devnull, os.O_RDONLY), os.open(file, os.O_WRONLY | os.O_CREAT)
    for target, stream in ((null, 0), (log, 1), (log, 2)):
        os.dup2(target, stream)


def allow(seconds: float, grace: float = GRACE) -> None:
    """End this process unless the next call comes within that time."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE * seconds + grace)


class Functions:
    """The functions of modules that are imported, to be given other code."""

    def __init__(self, root: Path, paths: Iterable[str]) -> None:
        self._root = root
        files = {str(root / path) for path in paths}
        self._functions = [
            item
            for item in gc.get_objects()
            if type(item) is FunctionType and item.__code__.co_filename in files
        ]

    def replace(self, mutant: Mutant) -> bool:
        """Put the change into the functions it lies in; whether there is one."""
        file = str(self._root / mutant.path)
        codes = {
            (code.co_name, code.co_firstlineno): code
            for code in _codes(compile(mutant.code, file, "exec"))
        }
        changed = False
        for function in self._functions:
            old = function.__code__
            new = codes.get((old.co_name, old.co_firstlineno))
            if old.co_filename != file or new is None or new == old:
                continue
            if new.co_freevars != old.co_freevars:
                return False
            function.__code__ = new
            changed = True
        return changed


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


class MutantRun:
    """A pytest plugin that, in place of running the tests once, runs some of them on each mutant.

    Args:
        root: of the repository.
        mutants: to be tested.
        reached: the tests of each mutant.
        done: takes each verdict.
        left: takes each mutant that must be imported.
    """

    def __init__(
        self,
        root: Path,
        mutants: Sequence[Mutant],
        reached: Reached,
        done: Callable[[Verdict], None],
        left: Callable[[Mutant], None],
    ) -> None:
        self._root, self._mutants, self._reached = root, mutants, reached
        self._done, self._left = done, left

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        self._warm_up(session.items)
        functions = Functions(self._root, {mutant.path for mutant in self._mutants})
        gc.collect()
        gc.freeze()
        chosen_for = {
            mutant.name: [items[name] for name in self._reached.tests_of(mutant) if name in items]
            for mutant in self._mutants
        }
        every = {item.nodeid for chosen in chosen_for.values() for item in chosen}
        unchanged = sorted(every, key=self._reached.seconds.__getitem__)
        status, begun, _ = self._run([items[name] for name in unchanged], lambda: True)
        if status:
            raise RuntimeError(f"{begun[-1]} fails without any change")
        for mutant in self._mutants:
            chosen = chosen_for[mutant.name]
            verdict = self._verdict(mutant, functions, chosen)
            if verdict is None:
                self._left(mutant)
            else:
                self._done(verdict)
        return True

    def _warm_up(self, items: Sequence[pytest.Item]) -> None:
        """Run one test of each file, so that what it imports is there before the forks."""
        wanted = {name for mutant in self._mutants for name in self._reached.tests_of(mutant)}
        by_file: dict[Path, pytest.Item] = {}
        for item in items:
            if item.nodeid not in wanted:
                continue
            known = by_file.setdefault(item.path, item)
            if self._reached.seconds[item.nodeid] < self._reached.seconds[known.nodeid]:
                by_file[item.path] = item
        for item in by_file.values():
            runtestprotocol(item, log=False, nextitem=None)

    def _verdict(
        self, mutant: Mutant, functions: Functions, items: Sequence[pytest.Item]
    ) -> Verdict | None:
        if not items:
            return Verdict(mutant.name, SURVIVED, "", 0, 0.0)
        status, begun, seconds = self._run(items, lambda: functions.replace(mutant))
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == MUST_BE_IMPORTED:
            return None
        return _verdict_of(mutant, status, begun, seconds)

    def _run(
        self, items: Sequence[pytest.Item], prepare: Callable[[], bool]
    ) -> tuple[int, list[str], float]:
        """Run tests in a child until one fails: its status, the tests begun, and the seconds."""
        reader, writer = os.pipe()

        def run() -> int:
            show_in(os.devnull)
            if not prepare():
                return MUST_BE_IMPORTED
            for item, following in zip(items, [*items[1:], None], strict=True):
                os.write(writer, f"{item.nodeid}\n".encode())
                allow(self._reached.seconds[item.nodeid])
                if any(report.failed for report in runtestprotocol(item, False, following)):
                    return 1
            return 0

        start = time.perf_counter()
        status = in_child(run)
        seconds = time.perf_counter() - start
        os.close(writer)
        with os.fdopen(reader) as progress:
            return status, progress.read().splitlines(), seconds


def _verdict_of(mutant: Mutant, status: int, run: Sequence[str], seconds: float) -> Verdict:
    if status == 0:
        return Verdict(mutant.name, SURVIVED, "", len(run), round(seconds, 2))
    timed_out = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGALRM, signal.SIGKILL)
    outcome = TIMED_OUT if timed_out else KILLED
    return Verdict(mutant.name, outcome, run[-1] if run else "import", len(run), round(seconds, 2))


class _Failures:
    """A pytest plugin that writes down which tests begin."""

    def __init__(self, writer: int, reached: Reached) -> None:
        self._writer, self._reached = writer, reached

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        os.write(self._writer, f"{nodeid}\n".encode())
        allow(self._reached.seconds[nodeid], IMPORTING)


def imported_verdict(
    root: Path, mutant: Mutant, reached: Reached, options: Sequence[str]
) -> Verdict:
    """The verdict on a mutant whose module is imported with the change.

    Args:
        options: of pytest.
    """
    names = reached.tests_of(mutant)
    if not names:
        return Verdict(mutant.name, SURVIVED, "", 0, 0.0)
    reader, writer = os.pipe()

    def run() -> int:
        show_in(os.devnull)
        _import_changed(str(root / mutant.path), mutant.code)
        return int(pytest.main([*options, "-x", *names], plugins=[_Failures(writer, reached)]))

    start = time.perf_counter()
    status = in_child(run)
    seconds = time.perf_counter() - start
    os.close(writer)
    with os.fdopen(reader) as progress:
        begun = progress.read().splitlines()
    return _verdict_of(mutant, status, begun, seconds)


def _import_changed(file: str, code: str) -> None:
    """Whoever imports `file` in this process gets `code`."""
    get_code = importlib.machinery.SourceFileLoader.get_code

    def changed(loader: importlib.machinery.SourceFileLoader, name: str) -> CodeType | None:
        if loader.path == file:
            return compile(code, file, "exec")
        return get_code(loader, name)

    importlib.machinery.SourceFileLoader.get_code = changed  # type: ignore[method-assign]
