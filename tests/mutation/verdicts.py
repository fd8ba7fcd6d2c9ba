"""What became of each mutant: kept in a file while a run goes on, and reported."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from equivalents import EQUIVALENT
from mutants import Mutant

KILLED, TIMED_OUT, SURVIVED = "killed", "timed out", "survived"


@dataclass(frozen=True)
class Verdict:
    """Args:
    mutant: its name.
    outcome: `KILLED`, `TIMED_OUT` or `SURVIVED`.
    by: the test that failed; empty for a survivor.
    tests: number of tests that were run.
    seconds: what they took.
    """

    mutant: str
    outcome: str
    by: str
    tests: int
    seconds: float

    @property
    def noticed(self) -> bool:
        return self.outcome != SURVIVED


class Verdicts:
    """The verdicts in a file with one line for each; the last one of a mutant counts."""

    def __init__(self, file: Path) -> None:
        self._file = file
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        self._known = {}
        for line in lines:
            verdict = Verdict(**json.loads(line))
            self._known[verdict.mutant] = verdict

    def of(self, mutant: Mutant) -> Verdict | None:
        return self._known.get(mutant.name)

    def add(self, verdict: Verdict) -> None:
        self._known[verdict.mutant] = verdict
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(verdict)) + "\n")


def is_equivalent(mutant: Mutant) -> bool:
    return mutant.description in EQUIVALENT


def stale_equivalents(mutants: Iterable[Mutant]) -> list[tuple[str, str, str, str]]:
    """Entries of `EQUIVALENT` in the modules of `mutants` (all of theirs) that match none."""
    every = list(mutants)
    known = {mutant.description for mutant in every}
    paths = {mutant.path for mutant in every}
    return [entry for entry in EQUIVALENT if entry[0] in paths and entry not in known]


def survivors(mutants: Iterable[Mutant], verdicts: Verdicts) -> list[Mutant]:
    """The mutants that no test noticed and that are not listed as equivalent."""
    found = []
    for mutant in mutants:
        verdict = verdicts.of(mutant)
        if verdict is not None and not verdict.noticed and not is_equivalent(mutant):
            found.append(mutant)
    return found


def table(mutants: Sequence[Mutant], verdicts: Verdicts) -> str:
    """Counts by module, in Markdown. Equivalent mutants are not part of the share."""
    lines = [
        "| module | mutants | tried | killed | timed out | equivalent | surviving | noticed |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    paths = list(dict.fromkeys(mutant.path for mutant in mutants))
    for name, group in [
        *((path, [mutant for mutant in mutants if mutant.path == path]) for path in paths),
        ("all", list(mutants)),
    ]:
        lines.append(_row(name, group, verdicts))
    return "\n".join(lines)


def _row(name: str, mutants: Sequence[Mutant], verdicts: Verdicts) -> str:
    count: Counter[str] = Counter()
    for mutant in mutants:
        verdict = verdicts.of(mutant)
        if is_equivalent(mutant):
            count["equivalent"] += 1
        elif verdict is not None:
            count[verdict.outcome] += 1
    noticed = count[KILLED] + count[TIMED_OUT]
    tried = noticed + count[SURVIVED]
    share = f"{100 * noticed / tried:.1f} %" if tried else ""
    cells = [name, len(mutants), tried, count[KILLED], count[TIMED_OUT], count["equivalent"]]
    return "| " + " | ".join(map(str, [*cells, count[SURVIVED], share])) + " |"


def listing(mutants: Iterable[Mutant], verdicts: Verdicts) -> str:
    """Each mutant with its place and its change."""
    lines = []
    for mutant in mutants:
        verdict = verdicts.of(mutant)
        tests = (
            "no test reaches it" if not verdict or not verdict.tests else f"{verdict.tests} tests"
        )
        lines += [
            f"{mutant.path}:{mutant.lines[0]}: {mutant.function or 'module'} ({tests})",
            f"  - {mutant.before}",
            f"  + {mutant.after}",
        ]
    return "\n".join(lines)
