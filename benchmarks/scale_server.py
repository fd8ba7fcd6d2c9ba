"""The image server under load: waiting, memory, and replicas that are killed.

    python -m benchmarks.scale_server [--clients 64] [--requests 2000] [--tiny] [--write]

`teacache serve --model demo` is started as a process, once by itself and once with `--ray local`
and two replicas. Clients ask at the same time, each for the next picture once it has its last one,
until there are as many pictures as wanted; a client that is answered 429 asks again when the answer
says. Waiting and service time are those that the server tells with each picture: in its queue, and
of sampling. Pictures are of 16 x 16 pixels in one step, so that what is measured is the server.
With replicas, one is killed by its process id after a quarter and another one after half of the
requests.

Memory is the resident size of the server's process, read after every 10 pictures; its slope is that
of a line fitted to what was read.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import numpy as np
import psutil

from teacache.files import write_atomically

PAGE = Path(__file__).parent / "results" / "scale_server.md"
ASKED = {"prompt": "dog", "num_inference_steps": 1, "size": "16x16"}
REPLICA = "ray::ServeReplica"
EVERY = 10
"""Pictures between two readings of the memory."""


@dataclass(frozen=True)
class Load:
    """How much is asked.

    Args:
        capacity: how many requests may wait in the server.
        kills: numbers of pictures after which a replica is killed, where there are replicas.
    """

    clients: int
    requests: int
    capacity: int
    kills: tuple[int, ...]


TINY = Load(clients=4, requests=40, capacity=4, kills=(10,))


@dataclass
class Outcome:
    """What came of a load.

    Attributes:
        statuses: answers by HTTP status.
        wrong: pictures that were not those asked for, by their seed.
        waits, services: seconds of each picture in the queue, and of its sampling.
        memory: MiB by the number of pictures.
        killed: numbers of pictures after which a replica was killed.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    waits: list[float] = field(default_factory=list)
    services: list[float] = field(default_factory=list)
    memory: list[tuple[int, float]] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def done(self) -> int:
        return len(self.waits)

    def growth(self, start: float) -> str:
        """How the memory grew from a share of the pictures on: fitted line, and difference."""
        pictures, sizes = np.array(self.memory[int(start * len(self.memory)) :]).T
        slope = float(np.polyfit(pictures, sizes, 1)[0]) * 1024
        return f"{slope:+.2f} KiB for each picture, {sizes[-1] - sizes[0]:+.1f} MiB in all"


@contextmanager
def served(*arguments: str) -> Iterator[tuple[str, psutil.Process]]:
    """`teacache serve` on a free port: its address, and its process."""
    command = [sys.executable, "-m", "teacache", "serve", "--model", "demo", "--port", "0"]
    process = subprocess.Popen(
        [*command, *arguments], stderr=subprocess.PIPE, text=True, cwd=PAGE.parents[2]
    )
    assert process.stderr is not None
    try:
        said = ""
        for line in process.stderr:
            said += line
            if line.startswith("serving "):
                url = line.split(" on ")[1].split("/v1")[0]
                wait_for(url)
                yield url, psutil.Process(process.pid)
                break
        else:
            raise RuntimeError(said)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        process.stderr.close()


def wait_for(url: str) -> None:
    """Waits until the server answers."""
    while True:
        try:
            urllib.request.urlopen(f"{url}/health").close()
            return
        except urllib.error.URLError:
            time.sleep(0.1)


async def loaded(url: str, load: Load, server: psutil.Process) -> Outcome:
    """Asks for as many pictures as `load` says."""
    outcome, seeds, remaining = Outcome(), iter(range(load.requests)), list(load.kills)
    connector = aiohttp.TCPConnector(limit=load.clients)
    async with aiohttp.ClientSession(url, connector=connector) as session:

        async def client() -> None:
            for seed in seeds:
                while (after := await asked(session, seed, outcome)) is not None:
                    await asyncio.sleep(after)
                if outcome.done >= EVERY * len(outcome.memory):
                    outcome.memory.append((outcome.done, server.memory_info().rss / 2**20))
                if remaining and outcome.done >= remaining[0]:
                    remaining.pop(0)
                    os.kill(replicas(server)[0].pid, signal.SIGKILL)
                    outcome.killed.append(outcome.done)

        started = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(load.clients)))
        outcome.seconds = time.perf_counter() - started
    return outcome


async def asked(session: aiohttp.ClientSession, seed: int, outcome: Outcome) -> float | None:
    """Asks for one picture; where it was refused, the seconds after which to ask again."""
    timeout = aiohttp.ClientTimeout(600)
    body = {**ASKED, "seed": seed}
    async with session.post("/v1/images/generations", json=body, timeout=timeout) as response:
        outcome.statuses[response.status] += 1
        if response.status == 429:
            return float(response.headers["Retry-After"])
        if response.status == 200:
            answer = await response.json()
            outcome.wrong += answer["teacache"]["seed"] != seed or len(answer["data"]) != 1
            outcome.waits.append(answer["teacache"]["queue_seconds"])
            outcome.services.append(answer["teacache"]["seconds"])
        return None


def replicas(server: psutil.Process) -> list[psutil.Process]:
    """The processes of the replicas below `server`."""
    found = []
    for process in server.children(recursive=True):
        try:
            if any(part.startswith(REPLICA) for part in process.cmdline()):
                found.append(process)
        except psutil.Error:  # it has ended
            continue
    return found


def one_process(load: Load) -> str:
    """A section: the server by itself."""
    with served("--max-queue", str(load.capacity)) as (url, server):
        outcome = asyncio.run(loaded(url, replace(load, kills=()), server))
    return section("The server by itself", "python -m teacache serve --model demo", load, outcome)


def two_replicas(load: Load) -> str:
    """A section: two replicas, of which some are killed."""
    arguments = ("--ray", "local", "--replicas", "2", "--cpus-per-replica", "0.5")
    with served("--max-queue", str(load.capacity), *arguments) as (url, server):
        outcome = asyncio.run(loaded(url, load, server))
    command = f"python -m teacache serve --model demo {' '.join(arguments)}"
    return section("Two replicas on Ray, some of them killed", command, load, outcome)


def section(title: str, command: str, load: Load, outcome: Outcome) -> str:
    """A section of the page."""
    accepted = sum(outcome.statuses.values()) - outcome.statuses[429]
    rows = [
        ("clients, requests that may wait", f"{load.clients}, {load.capacity}"),
        ("answers by status", listed(outcome.statuses)),
        ("accepted requests with their picture", f"{outcome.done} of {accepted}"),
        ("pictures of another request", str(outcome.wrong)),
        ("pictures each second", f"{outcome.done / outcome.seconds:.1f}"),
        ("service time p50, p99", seconds_at(outcome.services)),
        ("waiting p50, p99", seconds_at(outcome.waits)),
        ("waiting over the median service time p50, p99", ratios(outcome)),
        ("memory of the server after the first tenth", outcome.growth(0.1)),
        ("memory of the server in the second half", outcome.growth(0.5)),
    ]
    if outcome.killed:
        rows.insert(3, ("replicas killed after pictures", ", ".join(map(str, outcome.killed))))
    lines = [f"## {title}", "", f"`{command}`", "", "| | |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows), ""])


def listed(statuses: Counter[int]) -> str:
    return ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))


def seconds_at(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f} s" for value in np.percentile(values, (50, 99)))


def ratios(outcome: Outcome) -> str:
    served = float(np.median(outcome.services))
    return ", ".join(f"{value / served:.1f}" for value in np.percentile(outcome.waits, (50, 99)))


SECTIONS: Sequence[Callable[[Load], str]] = (one_process, two_replicas)


def page(load: Load, command: str) -> str:
    """The whole page, measured now."""
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    head = [
        "# The image server under load",
        "",
        f"`{command}`, {machine}. Clients, server and replicas share the cores.",
        "Times are those that the server tells with each picture; pictures have 16 x 16 pixels and",
        "one step.",
    ]
    sections = [measure(load) for measure in SECTIONS]
    busy = f"The machine's load average was {os.getloadavg()[2]:.0f} (15 minutes)."
    return "\n".join([*head, busy, "", *sections])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--max-queue", type=int, default=48, help="(default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="a few requests, to try it")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    args = parser.parse_args(argv)
    kills = (args.requests // 4, args.requests // 2)
    load = TINY if args.tiny else Load(args.clients, args.requests, args.max_queue, kills)
    command = " ".join(["python -m benchmarks.scale_server", *(argv or sys.argv[1:])])
    text = page(load, command)
    print(text)
    if args.write:
        write_atomically(PAGE, lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
