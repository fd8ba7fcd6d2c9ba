"""Where the evaluations of a run make the host wait for the device, by whoever does it.

On an accelerator PyTorch tells of each call that synchronises. Elsewhere nothing has to wait, and
what would is found by looking at every operator: the same calls, counted for the rehearsal.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode

from teacache.engine.run import Run
from teacache.installation import LIBRARY

WAITING = (
    "tolist", "item", "equal", "allclose", "cpu", "numpy", "nonzero", "is_nonzero", "unique",
    "__bool__", "__float__", "__int__", "__index__", "__iter__", "__contains__",
)  # fmt: skip
"""Functions of a tensor that make the host wait for its values."""
OURS = "teacache"
SYNCHRONISES = "called a synchronizing"
"""What PyTorch says of a call, as a warning or as an error."""


class Waits(Protocol):
    """Notes the calls that make the host wait."""

    @property
    def seen(self) -> Counter[str]: ...

    def __enter__(self) -> Any: ...

    def __exit__(self, *error: object) -> None: ...


class ReadSpy(TorchFunctionMode):
    """Counts, by line, where a package makes the host wait for a value of a tensor.

    Args:
        package: whose modules are watched; empty for all.
    """

    torch_folder = str(Path(torch.__file__).parent)

    def __init__(self, package: str = OURS) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self._package = package

    def __enter__(self) -> ReadSpy:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        if name in WAITING:
            frame: Any = sys._getframe(1)
            while frame.f_code.co_filename.startswith(self.torch_folder):
                frame = frame.f_back
            module = frame.f_globals.get("__name__", "")
            if module.split(".")[0] == self._package or not self._package:
                self.seen[f"{module} line {frame.f_lineno}: {name}"] += 1
        return function(*args, **(kwargs or {}))


class SyncWarnings:
    """Counts, by file and line, the calls that PyTorch says synchronise with a CUDA device."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self._caught: warnings.catch_warnings[Any] = warnings.catch_warnings(record=True)
        self._told: list[Any] = []
        self._mode = 0

    def __enter__(self) -> SyncWarnings:
        self._caught = warnings.catch_warnings(record=True)
        told = self._caught.__enter__()
        assert told is not None
        self._told = told
        warnings.simplefilter("always")
        self._mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("warn")
        return self

    def __exit__(self, *error: object) -> None:
        torch.cuda.set_sync_debug_mode(self._mode)
        self._caught.__exit__(*error)  # type: ignore[arg-type]
        for told in self._told:
            if SYNCHRONISES in str(told.message):
                self.seen[f"{_module_of(Path(told.filename))} line {told.lineno}"] += 1


def _module_of(file: Path) -> str:
    """The module of a file in our package; any other file's path."""
    if not file.is_relative_to(LIBRARY):
        return file.as_posix()
    return ".".join([OURS, *file.relative_to(LIBRARY).with_suffix("").parts])


class Forbidden:
    """Raises RuntimeError where the host would wait for `device`; where there is no accelerator,
    where our package would."""

    def __init__(self, device: torch.device) -> None:
        self.seen: Counter[str] = Counter()
        self._is_cuda = device.type == "cuda"
        self._spy = ReadSpy()
        self._mode = 0

    def __enter__(self) -> Forbidden:
        if self._is_cuda:
            self._mode = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("error")
        else:
            self._spy.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_cuda:
            torch.cuda.set_sync_debug_mode(self._mode)
            return
        self._spy.__exit__(*error)
        if self._spy.seen:
            raise RuntimeError(f"{SYNCHRONISES} operation: {', '.join(self._spy.seen)}")


def waits_of(device: torch.device, package: str = "") -> Waits:
    """What notes the calls that wait for `device`."""
    return SyncWarnings() if device.type == "cuda" else ReadSpy(package)


class EvaluationReads:
    """The waits within each evaluation of the runs that are made meanwhile.

    Args:
        spy: number of an evaluation -> what notes its waits.
    """

    def __init__(self, spy: Callable[[int], Waits]) -> None:
        self._spy = spy
        self.evaluations: list[Counter[str]] = []
        self.counted = 0
        """Reads that the last run counted itself."""

    @property
    def seen(self) -> Counter[str]:
        """Of all evaluations."""
        return sum(self.evaluations, Counter[str]())

    @property
    def ours(self) -> Counter[str]:
        """Those of our package."""
        return Counter({k: n for k, n in self.seen.items() if k.startswith(f"{OURS}.")})

    @property
    def modules(self) -> set[str]:
        return {place.partition(" line ")[0] for place in self.seen}

    @contextmanager
    def watching(self) -> Iterator[EvaluationReads]:
        begin, end = Run.begin_evaluation, Run.end_evaluation
        begun: list[Waits] = []

        def beginning(run: Run, *args: Any, **kwargs: Any) -> None:
            spy = self._spy(len(self.evaluations))
            spy.__enter__()
            begun.append(spy)
            begin(run, *args, **kwargs)

        def ending(run: Run, *args: Any, **kwargs: Any) -> None:
            end(run, *args, **kwargs)
            self.counted = run.reader.count
            if begun:  # else it failed, and its run ends now
                spy = begun.pop()
                spy.__exit__(None, None, None)
                self.evaluations.append(spy.seen)

        patches = patch.multiple(Run, begin_evaluation=beginning, end_evaluation=ending)
        try:
            with patches:
                yield self
        finally:
            for spy in begun:  # an evaluation that failed
                spy.__exit__(*sys.exc_info())


def reads_of_evaluations(device: torch.device, package: str = "") -> EvaluationReads:
    """Notes the waits for `device`.

    Args:
        package: whose modules are watched, where there is no accelerator; empty for all.
    """
    return EvaluationReads(lambda _: waits_of(device, package))
