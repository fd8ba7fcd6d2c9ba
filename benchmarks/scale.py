"""Many jobs on Ray: what a job costs, how it goes with more workers, and with workers killed.

    python -m benchmarks.scale [--tiny] [--write]

A Ray of this machine is started, with actors that do nothing but wait: what is measured is the
scheduler of `teacache.jobs`, not a model. Times are taken once every worker has started.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import random
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.waiting_worker import Wait, WaitingSpec, answer_of
from teacache.files import write_atomically
from teacache.jobs import Job, LocalPool, Pool, Watcher, kept_open, outcomes, results
from teacache.jobs.cluster import LOCAL, Cluster, Share, joined

PAGE = Path(__file__).parent / "results" / "scale.md"
OVERHEAD_BAR, LINEAR_BAR = 0.030, 0.95


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        overhead_jobs, overhead_repeats: of each kind of job.
        workers: numbers that are compared.
        jobs_each, steps, step: jobs for each worker, their steps, seconds of a step.
        killed_jobs, killed_workers: of the run in which workers are killed.
        kill_every: seconds between two of them.
    """

    overhead_jobs: int = 300
    overhead_repeats: int = 5
    workers: tuple[int, ...] = (1, 2, 4, 8)
    jobs_each: int = 40
    steps: int = 20
    step: float = 0.025
    killed_jobs: int = 10_000
    killed_workers: int = 20
    kill_every: float = 2.0


TINY = Size(10, 2, (1, 2), 4, 2, 0.02, 60, 3, 0.5)


def pool_of(cluster: Cluster, workers: int) -> Pool:
    """Actors without a part of the CPUs: they wait."""
    from teacache.jobs.ray_pool import RayPool

    specs = [WaitingSpec(f"worker {number}") for number in range(1, workers + 1)]
    return RayPool(specs, cluster, Share(workers, 0.0, 0.0))


def jobs_of(count: int, wait: Wait) -> Iterator[Job]:
    return (Job(number, wait) for number in range(1, count + 1))


def all_started(pool: Pool, workers: int) -> None:
    """Returns once every worker of a pool that is kept open has ended a job."""
    seen: set[int] = set()
    while len(seen) < workers:
        found = results(pool, jobs_of(2 * workers, Wait(seconds=0.1)))
        seen |= {answer.pid for answer in found}


# --- what a job costs ----------------------------------------------------------------------------


def overhead(cluster: Cluster, size: Size) -> str:
    """A job that does nothing, in this process and on an actor, alone and with a large result."""
    kinds = {"nothing": Wait(), "a result of 2 MB": Wait(content=2_000_000)}
    rows, worst = [], 0.0
    for name, wait in kinds.items():
        here = [_seconds_of_a_job(LocalPool(WaitingSpec("here")), wait, size) for _ in _tries(size)]
        with kept_open(pool_of(cluster, 1)) as pool:
            all_started(pool, 1)
            there = [_seconds_of_a_job(pool, wait, size) for _ in _tries(size)]
        more = statistics.median(there) - statistics.median(here)
        worst = max(worst, more)
        rows.append(f"| {name} | {_ms(here)} | {_ms(there)} | {1000 * more:.2f} ms |")
    return "\n".join(
        [
            "## What a job costs",
            "",
            f"{size.overhead_jobs} jobs that do nothing, one after the other, on one worker that "
            f"has started. Median of {size.overhead_repeats} runs, with the lowest and the "
            "highest.",
            "",
            "| a job gives | in this process | on an actor | more |",
            "|---|---|---|---|",
            *rows,
            "",
            f"Bar: at most {1000 * OVERHEAD_BAR:.0f} ms more. {_met(worst <= OVERHEAD_BAR)}",
        ]
    )


def _tries(size: Size) -> range:
    return range(size.overhead_repeats)


def _seconds_of_a_job(pool: Pool, wait: Wait, size: Size) -> float:
    """Between the first and the last outcome, for each job."""
    times = []
    for outcome in outcomes(pool, jobs_of(size.overhead_jobs, wait)):
        assert outcome.failure is None, outcome.failure
        times.append(time.perf_counter())
    return (times[-1] - times[0]) / (len(times) - 1)


def _ms(seconds: Sequence[float]) -> str:
    low, middle, high = (1000 * f(seconds) for f in (min, statistics.median, max))
    return f"{middle:.2f} ms ({low:.2f} to {high:.2f})"


# --- more workers --------------------------------------------------------------------------------


def more_workers(cluster: Cluster, size: Size) -> str:
    """As many jobs for each worker, with more and more workers; each a timed sleep in steps."""
    wait = Wait(steps=size.steps, seconds=size.step)
    rows, worst = [], 1.0
    for workers in size.workers:
        count = size.jobs_each * workers
        with kept_open(pool_of(cluster, workers)) as pool:
            all_started(pool, workers)
            started = time.perf_counter()
            ended = list(outcomes(pool, jobs_of(count, wait)))
            seconds = time.perf_counter() - started
        assert len(ended) == count and not [each for each in ended if each.failure]
        alone = sum(outcome.seconds for outcome in ended)
        gain = alone / seconds
        worst = min(worst, gain / workers)
        row = f"| {workers} | {count} | {alone:.1f} s | {seconds:.1f} s | {gain:.2f} "
        rows.append(f"{row}| {gain / workers:.3f} |")
    return "\n".join(
        [
            "## With more workers",
            "",
            f"{size.jobs_each} jobs for each worker, of {size.steps} steps, each a sleep of "
            f"{1000 * size.step:g} ms. One after the other they take the time that their workers "
            "have measured, added up.",
            "",
            "| workers | jobs | one after the other | together | speed-up | of linear |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"Bar: at least {LINEAR_BAR} of linear. {_met(worst >= LINEAR_BAR)}",
        ]
    )


# --- workers that are killed ---------------------------------------------------------------------


class Killer(Watcher):
    """Kills a random worker of those that have started, again and again, until it is closed."""

    def __init__(self, every: float) -> None:
        self.every = every
        self.killed = 0
        self.retried = 0
        self._alive: set[int] = set()
        self._over = threading.Event()
        self._random = random.Random(19)
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._over.set()
        self._thread.join()

    def admit(self, about: dict[str, Any]) -> None:
        self._alive.add(about["pid"])

    def notice(self, sentence: str) -> None:
        self.retried += "tried again" in sentence

    def _work(self) -> None:
        while not self._over.wait(self.every):
            if self._alive:
                pid = self._random.choice(sorted(self._alive))
                self._alive.discard(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.killed += 1


def workers_killed(cluster: Cluster, size: Size) -> str:
    """Every job has one outcome, whatever happens to its workers."""
    count: Counter[int] = Counter()
    wrong = failed = 0
    started = time.perf_counter()
    with Killer(size.kill_every) as killer:
        ended = outcomes(
            pool_of(cluster, size.killed_workers),
            jobs_of(size.killed_jobs, Wait(seconds=0.02)),
            watcher=killer,
            admit=killer.admit,
        )
        for outcome in ended:
            count[outcome.job.number] += 1
            failed += outcome.failure is not None
            right = answer_of(outcome.job.number)
            wrong += outcome.failure is None and outcome.result.answer != right
    seconds = time.perf_counter() - started
    lost = sum(number not in count for number in range(1, size.killed_jobs + 1))
    twice = sum(times > 1 for times in count.values())
    share = 100 / size.killed_workers
    return "\n".join(
        [
            "## With workers killed",
            "",
            f"{size.killed_jobs:,} jobs on {size.killed_workers} workers. Every "
            f"{size.kill_every:g} s one worker ({share:.0f} % of them), chosen at random, gets "
            "SIGKILL; another one "
            "is started in its place.",
            "",
            "| jobs | lost | twice | wrong | failed | workers killed | jobs tried again | time |",
            "|---|---|---|---|---|---|---|---|",
            f"| {size.killed_jobs:,} | {lost} | {twice} | {wrong} | {failed} | {killer.killed} "
            f"| {killer.retried} | {seconds:.0f} s |",
            "",
            f"Bar: none lost, none twice. {_met(not (lost or twice or wrong or failed))}",
        ]
    )


# -------------------------------------------------------------------------------------------------

SECTIONS: tuple[Callable[[Cluster, Size], str], ...] = (overhead, more_workers, workers_killed)
"""What the page holds, each as Markdown."""


def _met(met: bool) -> str:
    return "Met." if met else "**Not met.**"


def page(size: Size, command: str) -> str:
    with joined(LOCAL) as cluster:
        parts = [section(cluster, size) for section in SECTIONS]
    machine = f"Ray {version('ray')} · Python {platform.python_version()} · {platform.machine()}"
    head = f"`{command}` · {machine}, {os.cpu_count()} CPUs, one machine"
    return "\n\n".join(["# Jobs on Ray", head, *parts]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a few jobs: does it run at all?")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    args = parser.parse_args()
    text = page(TINY if args.tiny else Size(), "python -m benchmarks.scale")
    print(text)
    if args.write and not args.tiny:
        write_atomically(PAGE, lambda file: file.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
