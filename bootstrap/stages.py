"""The set-up's stages: each runs once, under a lock, and again only after a change."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from bootstrap import paths
from bootstrap.console import progress
from bootstrap.installer import Log
from bootstrap.venv import Venv


class Stage(NamedTuple):
    name: str
    title: str
    digest: str
    action: Callable[[Log], None]
    # Whether it is done, for a stage without a stamp in the environment.
    ready: Callable[[], bool] | None = None


def stage_done(venv: Venv, stage: Stage) -> bool:
    return stage.ready() if stage.ready else venv.done(stage.name, stage.digest)


def set_up(venv: Venv, stages: list[Stage]) -> None:
    if all(stage_done(venv, stage) for stage in stages):
        return
    venv.directory.mkdir(parents=True, exist_ok=True)
    log_file = venv.directory / "setup.log"
    with setup_lock(paths.ROOT / ".venv" / "setup.lock") as lock, log_file.open("wb") as file:
        log = Log(file, lock, venv)
        for number, stage in enumerate(stages, 1):
            if not stage_done(venv, stage):
                log.title = f"{number}/{len(stages)} {stage.title}"
                progress.say(log.title)
                venv.repair()
                stage.action(log)
                if not stage.ready:
                    venv.mark(stage.name, stage.digest)
    progress.say("everything is set up")


@contextlib.contextmanager
def setup_lock(path: Path) -> Iterator[int]:
    """Holds a file lock, so that one run sets up at a time; it is freed when its holders end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        announced = False
        while not try_lock(file):
            if not announced:
                progress.say("another run is setting up; waiting for it")
                announced = True
            time.sleep(0.2)
        yield file.fileno()


def try_lock(file: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
