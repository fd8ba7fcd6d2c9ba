"""The jobs of a command from the plan to the report: run, written, remembered."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import write_json, write_json_lines
from ..jobs import Failure, Job, Outcome, Pool, outcomes
from ..jobs.journal import JobJournal
from .job_bars import JobBars
from .job_plan import Entry, Plan
from .options import say
from .ray_options import retries_of

JOURNAL = "jobs.partial.jsonl"
REPORT_VERSION = 1
MOST_FAILURES = 20
"""Failed jobs that are named on the terminal."""

Store = Callable[[Entry, Any], tuple[dict[str, Any], str]]
"""Writes a job's result; gives its entry in the report, and what is printed."""


@dataclass(frozen=True)
class Work:
    """What a command gives to be run.

    Attributes:
        plan: its jobs.
        payload: of a job, made when a worker gets it.
        models: which models a job needs.
        store: what is done with a result.
        admit: is told what a worker tells of itself.
        report: the file for the report, None for none.
        about: its first entries; filled while the work goes on.
        key: what the results depend on beside the jobs.
        flat: the report of the single job is not a list.
    """

    plan: Plan
    payload: Callable[[Entry], Any]
    models: Callable[[Entry], str]
    store: Store
    admit: Callable[[dict[str, Any]], None]
    report: Path | None
    about: dict[str, Any]
    key: dict[str, Any]
    flat: bool = False


def run_work(args: argparse.Namespace, work: Work, pool: Pool) -> int:
    """Runs every job that is not finished yet.

    Returns:
        The exit status: 0 if all succeeded; 2 if nothing could be made as every job that ran is
        unusable; else 1.

    Raises:
        UserError, ExecutionError: no worker could start, or the single job failed.
    """
    return _Running(args, work, pool).run()


@dataclass
class _Running:
    args: argparse.Namespace
    work: Work
    pool: Pool
    failures: dict[int, tuple[Failure, dict[str, Any]]] = field(default_factory=dict)
    single: dict[str, Any] = field(default_factory=dict)
    workers: dict[str, dict[str, Any]] = field(default_factory=dict)
    _texts: dict[int, str] = field(default_factory=dict)
    _next: int = 1

    def run(self) -> int:
        started, plan = time.time(), self.work.plan
        journal = None if plan.single else self._journal()
        before = 0 if journal is None else len(journal)
        if before:
            say(f"{before} of {plan.count} jobs are finished: going on with the others")
        status = "failed"
        try:
            self._run(journal, before)
            status = "failed" if self.failures else "success"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            self._report(started, status, journal)
        if journal is not None and not self.failures:
            journal.remove()
        return self._status(made=journal is not None and len(journal) > 0)

    def _journal(self) -> JobJournal:
        plan = {"count": self.work.plan.count, "jobs": self.work.plan.key}
        return JobJournal(self.args.out / JOURNAL, self.work.key | plan, say)

    def _run(self, journal: JobJournal | None, before: int) -> None:
        plan = self.work.plan
        entries: dict[int, Entry] = {}

        def jobs() -> Iterator[Job]:
            for entry in plan:
                if journal is not None and entry.number in journal:
                    self._print(bars, entry.number, "")
                    continue
                entries[entry.number] = entry
                yield Job(entry.number, None, self.work.models(entry))

        def prepare(job: Job) -> Job:
            return Job(job.number, self.work.payload(entries[job.number]), job.models)

        with JobBars(plan.count, before) as bars:
            ended = outcomes(
                self.pool,
                jobs(),
                retries=retries_of(self.args),
                watcher=bars,
                admit=self.work.admit,
                prepare=prepare,
            )
            with contextlib.closing(ended):
                for outcome in ended:
                    self._take(outcome, entries.pop(outcome.job.number), journal, bars)

    def _take(
        self, outcome: Outcome, entry: Entry, journal: JobJournal | None, bars: JobBars
    ) -> None:
        head: dict[str, Any] = {"job": entry.number, "settings": entry.settings}
        if entry.folder:
            head["folder"] = entry.folder
        head |= {"worker": outcome.worker, "attempts": outcome.attempts}
        if outcome.failure is not None:
            self._fail(outcome.failure, entry, head, bars)
            return
        told, text = self.work.store(entry, outcome.result)
        head |= {"status": "success"} | told
        self._count(outcome)
        if journal is None:
            self.single = head
        else:
            journal.add(entry.number, head)
        self._print(bars, entry.number, f"{self._title(outcome, entry)}{text}")

    def _fail(self, failure: Failure, entry: Entry, head: dict[str, Any], bars: JobBars) -> None:
        head |= {"status": "failed", "error": failure.message}
        self.failures[entry.number] = failure, head
        if self.work.plan.single:
            raise failure.error()
        if len(self.failures) <= MOST_FAILURES:
            if self.args.verbose and failure.details:
                bars.say(failure.details)
            bars.say(f"teacache: job {entry.number} ({entry.source}): {failure.message}")
        elif len(self.failures) == MOST_FAILURES + 1:
            bars.say("teacache: more jobs failed; the report names them")
        self._print(bars, entry.number, "")

    def _title(self, outcome: Outcome, entry: Entry) -> str:
        if self.work.plan.single:
            return ""
        return f"{entry.folder} {', '.join(entry.settings)} on {outcome.worker}\n"

    def _print(self, bars: JobBars, number: int, text: str) -> None:
        """Prints the texts in the order of the jobs."""
        self._texts[number] = text
        while self._next in self._texts:
            text = self._texts.pop(self._next)
            self._next += 1
            if text:
                bars.show(text)

    def _count(self, outcome: Outcome) -> None:
        row = self.workers.setdefault(outcome.worker, {"jobs": 0, "seconds": 0.0})
        row["jobs"] += 1
        row["seconds"] = round(row["seconds"] + outcome.seconds, 3)

    # --- at the end ------------------------------------------------------------------------------

    def _report(self, started: float, status: str, journal: JobJournal | None) -> None:
        """Writes the report, however it ended; none where no job has ended."""
        path, finished = self.work.report, int(bool(self.single))
        if journal is not None:
            finished = len(journal)
        if path is None or not (finished or self.failures):
            return
        seconds = round(time.time() - started, 3)
        head = {"version": REPORT_VERSION, **self.work.about, "started": round(started, 3)}
        if self.work.flat:
            failed = [entry for _, entry in self.failures.values()]
            (entry,) = [self.single] if self.single else failed
            write_json(path, head | {"status": status, "seconds": seconds} | entry)
            return
        head |= {
            "status": status,
            "seconds": seconds,
            "jobs": self.work.plan.count,
            "finished": finished,
            "failed": len(self.failures),
            "workers": self.workers,
        }
        write_json_lines(path, head, "results", self._entries(journal))

    def _entries(self, journal: JobJournal | None) -> Iterator[dict[str, Any]]:
        """Of every job that has ended, in the order of the jobs."""
        failed = sorted(self.failures, reverse=True)
        finished = [(0, self.single)] if self.single else []
        for number, entry in finished if journal is None else journal.entries():
            while failed and failed[-1] < number:
                yield self.failures[failed.pop()][1]
            yield entry
        while failed:
            yield self.failures[failed.pop()][1]

    def _status(self, made: bool) -> int:
        if not self.failures:
            return 0
        unusable = all(failure.unusable for failure, _ in self.failures.values())
        return 2 if unusable and not made else 1


def digest_of(value: Any) -> str:
    """Of a JSON value, for the key of a journal; paths are texts."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
