"""The runs of an unfinished calibration, in a file, so that it can be resumed."""

from __future__ import annotations

import base64
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..engine.strategy import Budget
from ..journal import Record, append_records, header_of, read_records, write_records
from ..profiles.conditions import Conditions
from ..profiles.plans import Plan
from ..profiles.schema import JsonObject
from .recorder import Point, Recorded, Recording
from .shards import Attempt
from .trajectory import Trajectory

log = logging.getLogger("teacache")


class Journal:
    """The runs so far of one calibration; the same numbers are read back as were written.

    Args:
        path: the file, None to write nothing to disk.
        key: what the runs depend on; a file with another key is begun anew.
    """

    def __init__(self, path: Path | None, key: dict[str, Any]) -> None:
        self._path = path
        self._header = header_of(**key)
        self._recorded: dict[int, Recorded] = {}
        self._outcomes: dict[tuple[int, Plan | int | None], tuple[float, int]] = {}
        self.resumed = False
        if path is not None:
            self._open(path)

    def _open(self, path: Path) -> None:
        records = read_records(path)
        if records and records[0] != self._header:
            log.warning("TeaCache: %s is of another calibration: begun anew", path.name)
            records = []
        write_records(path, records or [self._header])
        for record in records[1:]:
            self._take(record)
        self.resumed = len(records) > 1

    def _append(self, record: Record) -> None:
        if self._path is not None:
            append_records(self._path, [record])
        self._take(record)

    def _take(self, record: Record) -> None:
        if record["kind"] == "tried":
            plan = tuple(record["plan"]) if isinstance(record["plan"], list) else record["plan"]
            self._outcomes[record["case"], plan] = record["error"], record["computed"]
            return
        conditions = Conditions.from_json(JsonObject(record["conditions"], "conditions"))
        size = conditions.steps
        gram = np.array(record["gram"], dtype=np.float64).reshape(size, size)
        recording = Recording(
            Trajectory(conditions.sigmas, gram),
            tuple(Point(*values) for values in record["points"]),
            _tensor(record["final"]),
        )
        self._recorded[record["case"]] = Recorded(recording, conditions, record["euler"])

    def recorded(self, case: int) -> Recorded | None:
        return self._recorded.get(case)

    def add_recorded(self, case: int, recorded: Recorded) -> None:
        recording = recorded.recording
        self._append(
            {
                "kind": "recording",
                "case": case,
                "conditions": recorded.conditions.to_json(),
                "euler": recorded.euler,
                "gram": recording.trajectory.gram.flatten().tolist(),
                "points": [list(asdict(point).values()) for point in recording.points],
                "final": _text(recording.final),
            }
        )

    def outcome(self, case: int, attempt: Attempt) -> tuple[float, int] | None:
        """Error and computed steps of what was tried; None if it has not run."""
        return self._outcomes.get((case, _entry(attempt)))

    def add_outcome(self, case: int, attempt: Attempt, error: float, computed: int) -> None:
        plan = _entry(attempt)
        self._append(
            {"kind": "tried", "case": case, "plan": plan, "error": error, "computed": computed}
        )

    def remove(self) -> None:
        """The calibration is finished."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _entry(attempt: Attempt) -> Plan | int | None:
    """How the file names an attempt: a plan, a forecast's number of computed steps, or nothing."""
    return attempt.count if isinstance(attempt, Budget) else attempt


def _text(tensor: torch.Tensor) -> str:
    return base64.b64encode(tensor.numpy().astype("<f4").tobytes()).decode()


def _tensor(text: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype="<f4").copy())
