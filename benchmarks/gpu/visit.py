"""Everything that a device is needed for, in order, within a given time.

    python -m benchmarks.gpu.visit --minutes 9 --out DIR
    python -m benchmarks.gpu.visit --minutes 9 --out DIR --tiny    # rehearsed on a processor

First the tests for a CUDA device, then `benchmarks.gpu`, then training of the photos model, and its
roughness afterwards. What a stage writes is in DIR even where it is stopped: its log (`tests.log`,
`benchmark.log`, ...), the journal `gpu.jsonl` and the page `gpu.md`, the weights
`photos.safetensors`, and in `visit.json` how each stage ended. A stage that is done sooner leaves
its time to the next ones. Another visit with the same DIR goes on with the benchmark's rows, and on
the same machine with the training.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO

from teacache.files import write_atomically
from training.photos import ARCHIVE

ROOT = Path(__file__).parents[2]
WORK = ROOT / "output" / "gpu" / "training"
"""Where the training keeps its checkpoints, which are large."""
TESTS_SECONDS, TRAINING_SECONDS, GRADE_SECONDS = 120.0, 300.0, 30.0
"""The most that these stages take."""
TESTS_SHARE, TRAINING_SHARE = 0.2, 0.2
"""The parts of a short visit that are left to them."""
DECAY = 0.25
"""The last part of the training, in which the learning rate falls."""
START = 25.0
"""Seconds that a program needs to begin and to end."""


@dataclass(frozen=True)
class Ended:
    """How a stage has ended.

    Args:
        stage: its name.
        status: exit status of its program; None where it was stopped, or not begun.
        seconds: how long it ran.
        note: why it was not begun, or that it was stopped.
    """

    stage: str
    status: int | None
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class Stage:
    """One program.

    Args:
        name: names its log.
        command: minutes that it may take -> its arguments.
        seconds: the most that it takes; None for all that is not reserved for later stages.
        needs: a file without which it is not begun.
        keeps: files that are copied to the folder of the visit when it has ended.
    """

    name: str
    command: Callable[[float], list[str]]
    seconds: float | None = None
    needs: Path | None = None
    keeps: tuple[Path, ...] = ()


def stages(out: Path, photos: Path, device: str, tiny: bool, total: float) -> list[Stage]:
    """The stages of a visit.

    Args:
        out: its folder.
        photos: the zip of photographs.
        device: of the training.
        tiny: whether it is the rehearsal.
        total: seconds that it may take.
    """
    tests = ["-m", "pytest", "-c", "tests/pytest.ini", "--rootdir", ".", "-v", "tests/cuda"]
    weights, log = WORK / "photos.safetensors", WORK / "photos.jsonl"
    train = ["-m", "training.train_photos", "--photos", str(photos), "--device", device]
    train += ["--out", str(WORK), "--save-every", "20", "--batch", "4" if tiny else "256"]
    grade = ["-m", "training.grade_photos", "--weights", str(weights), "--device", device]
    measure = ["-m", "benchmarks.gpu", "--out", str(out), *(["--tiny"] if tiny else [])]
    training = min(TRAINING_SECONDS, TRAINING_SHARE * total)
    return [
        Stage(
            "tests",
            lambda minutes: [*tests, "-m", "not cuda" if tiny else "cuda"],
            min(TESTS_SECONDS, TESTS_SHARE * total),
        ),
        Stage("benchmark", lambda minutes: [*measure, "--minutes", f"{minutes:.2f}"]),
        Stage(
            "training",
            lambda minutes: [*train, "--minutes", f"{minutes:.2f}"],
            (1 - DECAY) * training,
            needs=photos,
            keeps=(weights, log),
        ),
        Stage(
            "decay",
            lambda minutes: [*train, "--minutes", f"{minutes:.2f}", "--decay"],
            DECAY * training + START,
            needs=photos,
            keeps=(weights, log),
        ),
        Stage(
            "grade",
            lambda minutes: [*grade, "--count", "1" if tiny else "20"],
            GRADE_SECONDS,
            needs=photos,
        ),
    ]


def allowed(stage: Stage, later: Sequence[Stage], left: float) -> float:
    """Seconds that a stage may take.

    Args:
        later: the stages behind it; what is reserved for those that can be begun is left to them.
        left: seconds that are left of the visit.
    """
    reserved = sum(each.seconds or 0.0 for each in later if _can_begin(each))
    return min(left - reserved, left if stage.seconds is None else stage.seconds)


def _can_begin(stage: Stage) -> bool:
    return stage.needs is None or stage.needs.is_file()


def perform(stage: Stage, out: Path, seconds: float) -> Ended:
    """Run a stage; what it prints is in its log.

    Args:
        out: folder of the visit.
        seconds: that it may take.
    """
    if not _can_begin(stage):
        return Ended(stage.name, None, 0.0, f"not begun: there is no {stage.needs}")
    if seconds < START:
        return Ended(stage.name, None, 0.0, f"not begun: {seconds:.0f} s were left for it")
    minutes = max(seconds - START, 1.0) / 60
    started = time.monotonic()
    with (out / f"{stage.name}.log").open("ab") as log:
        status = run_until([sys.executable, *stage.command(minutes)], seconds, log)
    spent = time.monotonic() - started
    for path in stage.keeps:
        if path.is_file():
            shutil.copy2(path, out / path.name)
    return Ended(stage.name, status, spent, "stopped: its time was over" if status is None else "")


def run_until(command: Sequence[str], seconds: float, log: IO[bytes]) -> int | None:
    """Run a program in the repository, its output in `log`.

    Returns:
        Its exit status; None where it was stopped, with all that it had begun, after `seconds`.
    """
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    own_group = os.name == "posix"
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=own_group,
    ) as program:
        try:
            return program.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if program.poll() is None:
                if own_group:
                    os.killpg(program.pid, signal.SIGKILL)
                else:
                    program.kill()


def visit(chosen: Sequence[Stage], out: Path, total: float) -> list[Ended]:
    """Run the stages, and write after each how it has ended.

    Args:
        out: folder of the visit.
        total: seconds that it may take.
    """
    end, results = time.monotonic() + total, list[Ended]()
    for number, stage in enumerate(chosen):
        left = end - time.monotonic()
        results.append(perform(stage, out, allowed(stage, chosen[number + 1 :], left)))
        told = results[-1].note or f"exit status {results[-1].status}"
        print(f"{stage.name}: {told}, {results[-1].seconds:.0f} s", flush=True)
        text = json.dumps([asdict(each) for each in results], indent=1)
        write_atomically(out / "visit.json", partial(Path.write_text, data=text, encoding="utf-8"))
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Returns:
        Its exit status: 0 if every stage has ended with 0.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.visit", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything; default 9")
    parser.add_argument("--out", type=Path, required=True, help="folder for all results")
    parser.add_argument("--photos", type=Path, default=ARCHIVE, help="as in training.train_photos")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="some of the stages")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal on the processor")
    args = parser.parse_args(arguments)
    if args.minutes <= 0:
        parser.error(f"--minutes must be above 0, not {args.minutes:g}")
    total = 60 * args.minutes
    out = args.out.resolve()
    device = "cpu" if args.tiny else "cuda"
    chosen = stages(out, args.photos.resolve(), device, args.tiny, total)
    names = [stage.name for stage in chosen]
    unknown = sorted(set(args.only or ()) - set(names))
    if unknown:
        parser.error(f"--only: stages are {', '.join(names)}, not {', '.join(unknown)}")
    out.mkdir(parents=True, exist_ok=True)
    results = visit(
        [each for each in chosen if not args.only or each.name in args.only], out, total
    )
    return 0 if all(result.status == 0 for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
