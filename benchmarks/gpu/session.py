"""One run of the command: which rows are measured, in the time there is."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch

from benchmarks.gpu.building import build
from benchmarks.gpu.cases import BUILDING, Case, why_not
from benchmarks.gpu.models import ModelSize
from benchmarks.gpu.rows import KINDS, Plan
from benchmarks.testbeds import Testbed
from teacache.journal import Record, append_records

FASTEST = 0.5
"""No row is expected to be faster than this share of the guess."""
LONG_STEP = 0.5
"""Seconds from which on a step is long: fewer of them are sampled."""
SHORT, LONG, REHEARSAL = (11, 2), (8, 2), (8, 1)
"""Steps of a run, and runs of each way to sample: for short and long steps, and with `--tiny`."""


def plan_of(size: ModelSize, tiny: bool) -> Plan:
    """How much of a model is sampled."""
    if tiny:
        return Plan(*REHEARSAL, backend="eager")
    return Plan(*(LONG if size.step_seconds > LONG_STEP else SHORT), backend="inductor")


class Session:
    """One run of the command: the model that is in memory now, and the time that is left.

    Args:
        device: what is measured.
        sizes: the models by name.
        tiny: whether it is the rehearsal.
        minutes: how long it may take.
    """

    def __init__(
        self, device: torch.device, sizes: Mapping[str, ModelSize], tiny: bool, minutes: float
    ) -> None:
        self._device, self._sizes, self._tiny = device, sizes, tiny
        self._end = time.monotonic() + 60 * minutes
        self._built: tuple[tuple[str, str, bool], Testbed] | None = None
        self._available = float("inf")
        if device.type == "cuda":
            self._available = float(torch.cuda.mem_get_info(device)[0])
        self._spent, self._guessed = 0.0, 0.0

    @property
    def pace(self) -> float:
        """How much longer rows have taken here than guessed."""
        return max(FASTEST, self._spent / self._guessed) if self._guessed else 1.0

    def expected(self, case: Case) -> float:
        """Seconds that a row may take here."""
        return self.pace * self._guess(case)

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._end - time.monotonic()

    def record(self, case: Case) -> Record:
        """Measure a row: what the journal holds of it, also where it fails."""
        about: Record = {"kind": "row", "case": case.name}
        size, started = self._sizes[case.model], time.monotonic()
        why = why_not(size, case.fp8, self._available)
        if why:
            return {**about, "left_out": why}
        guess = self._guess(case)
        try:
            testbed = self._testbed(case, size)
            row = KINDS[case.kind](testbed, size, plan_of(size, self._tiny))
        except Exception as error:  # a row that fails must not take the others with it
            self._drop()
            lines = f"{type(error).__name__}: {error}".strip().splitlines()
            return {**about, "failed": lines[0]}
        if case.kind == "compile":  # in diffusers the blocks stay compiled
            self._drop()
        seconds = time.monotonic() - started
        self._spent, self._guessed = self._spent + seconds, self._guessed + guess
        return {**about, "seconds": seconds, **row}

    def _guess(self, case: Case) -> float:
        size = self._sizes[case.model]
        plan = plan_of(size, self._tiny)
        building = 0.0 if self._has(case) else BUILDING
        return building + case.expected_seconds(size, plan.steps, plan.repeats)

    def _has(self, case: Case) -> bool:
        return self._built is not None and self._built[0] == case.built_as

    def _testbed(self, case: Case, size: ModelSize) -> Testbed:
        if self._built is not None and self._has(case):
            return self._built[1]
        self._drop()
        testbed = build(size, case.host, self._device, case.fp8)
        self._built = case.built_as, testbed
        return testbed

    def _drop(self) -> None:
        """Free the model in memory."""
        self._built = None
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def open_rows(records: Iterable[Record], cases: Iterable[Case]) -> list[Case]:
    """The rows that are still to be measured, those that have failed before last."""
    latest = {record["case"]: record for record in records if record["kind"] == "row"}
    cases = list(cases)
    new = [case for case in cases if case.name not in latest]
    return new + [case for case in cases if "failed" in latest.get(case.name, {})]


def measure_rows(
    session: Session,
    cases: list[Case],
    journal: Path,
    written: Callable[[], None] = lambda: None,
) -> bool:
    """Measure rows, and write each to the journal, until the time is over.

    Args:
        written: called after each row.

    Returns:
        Whether none has failed.
    """
    good = True
    for case in cases:
        expected = session.expected(case)
        if expected > session.left:
            print(f"{case.name}: not begun, {expected:.0f} s expected", flush=True)
            continue
        record = session.record(case)
        append_records(journal, [record])
        written()
        told = record.get("failed") or record.get("left_out") or f"{record['seconds']:.1f} s"
        print(f"{case.name}: {told}", flush=True)
        good = good and "failed" not in record
    return good
