"""The runs of an unfinished calibration: numbers in a file, one line each, so that it can go on."""

from __future__ import annotations

import base64
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..profiles.conditions import Conditions
from ..profiles.plans import Plan
from .recorder import Point, Recording
from .schedule_search import Trajectory

log = logging.getLogger("teacache")


class Journal:
    """path: of the file, None to keep nothing on disk. key: what the runs depend on; a file with
    another key is begun anew. The same numbers come out of the file as went in.
    """

    def __init__(self, path: Path | None, key: dict[str, Any]) -> None:
        self._path = path
        self._header = json.dumps({"kind": "header", **key}, sort_keys=True)
        self._recordings: dict[int, Recording] = {}
        self._conditions: tuple[Conditions, bool] | None = None
        self._tried: dict[tuple[int, Plan | None], tuple[float, int]] = {}
        self.resumed = False
        if path is not None:
            self._open(path)

    def _open(self, path: Path) -> None:
        lines: list[str] = []
        if path.is_file():
            whole = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")[0]
            lines = whole.splitlines()
        if lines and lines[0] == self._header:
            for line in lines[1:]:
                self._take(json.loads(line))
            self.resumed = len(lines) > 1
        elif lines:
            log.warning("TeaCache: %s is of another calibration: begun anew", path.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = lines if self.resumed else [self._header]
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def _keep(self, record: dict[str, Any]) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        self._take(record)

    def _take(self, record: dict[str, Any]) -> None:
        if record["kind"] == "tried":
            plan = None if record["plan"] is None else tuple(record["plan"])
            self._tried[record["case"], plan] = record["error"], record["computed"]
            return
        made = record["conditions"]
        sigmas = tuple(made.pop("sigmas"))
        conditions = Conditions(**{**made, "sigmas": sigmas, "latent": tuple(made["latent"])})
        self._conditions = conditions, record["euler"]
        size = len(sigmas) - 1
        gram = np.array(record["gram"], dtype=np.float64).reshape(size, size)
        self._recordings[record["case"]] = Recording(
            Trajectory(sigmas, gram),
            tuple(Point(*values) for values in record["points"]),
            _tensor(record["final"]),
        )

    def recording(self, case: int) -> Recording | None:
        return self._recordings.get(case)

    def conditions(self) -> tuple[Conditions, bool] | None:
        """Of the runs, and whether the sampler takes Euler steps; None before the first one."""
        return self._conditions

    def keep_recording(
        self, case: int, recording: Recording, conditions: Conditions, euler: bool
    ) -> None:
        self._keep(
            {
                "kind": "recording",
                "case": case,
                "conditions": asdict(conditions),
                "euler": euler,
                "gram": recording.trajectory.gram.flatten().tolist(),
                "points": [list(asdict(point).values()) for point in recording.points],
                "final": _text(recording.final),
            }
        )

    def tried(self, case: int, plan: Plan | None) -> tuple[float, int] | None:
        """(error, computed steps) of a plan, or of the default; None if it was not tried."""
        return self._tried.get((case, plan))

    def keep_tried(self, case: int, plan: Plan | None, error: float, computed: int) -> None:
        self._keep(
            {"kind": "tried", "case": case, "plan": plan, "error": error, "computed": computed}
        )

    def remove(self) -> None:
        """The calibration is finished."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _text(tensor: torch.Tensor) -> str:
    return base64.b64encode(tensor.numpy().astype("<f4").tobytes()).decode()


def _tensor(text: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), dtype="<f4").copy())
