"""Where a run makes the host wait for the device, beside what the run counts itself."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from teacache.engine.run import Run


class ReadSpy(TorchFunctionMode):
    """Counts where this package makes the host wait for a value of a tensor, by line."""

    waits = (
        "tolist", "item", "equal", "allclose", "cpu", "numpy", "nonzero", "is_nonzero", "unique",
        "__bool__", "__float__", "__int__", "__index__", "__iter__", "__contains__",
    )  # fmt: skip
    torch_folder = str(Path(torch.__file__).parent)

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.counted = 0
        """Reads that the run counted itself."""

    @property
    def modules(self) -> set[str]:
        return {place.partition(" line ")[0] for place in self.seen}

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        if name in self.waits:
            frame: Any = sys._getframe(1)
            while frame.f_code.co_filename.startswith(self.torch_folder):
                frame = frame.f_back
            module = frame.f_globals.get("__name__", "")
            if module.startswith("teacache."):
                self.seen[f"{module} line {frame.f_lineno}: {name}"] += 1
        return function(*args, **(kwargs or {}))


@contextmanager
def reads_of_evaluations() -> Iterator[ReadSpy]:
    """The reads within the evaluations of a run."""
    spy = ReadSpy()
    begin, end = Run.begin_evaluation, Run.end_evaluation

    def beginning(run: Run, *args: Any, **kwargs: Any) -> None:
        spy.__enter__()
        begin(run, *args, **kwargs)

    def ending(run: Run, *args: Any, **kwargs: Any) -> None:
        end(run, *args, **kwargs)
        spy.__exit__(None, None, None)
        spy.counted = run.reader.count

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "begin_evaluation", beginning)
        patch.setattr(Run, "end_evaluation", ending)
        yield spy
