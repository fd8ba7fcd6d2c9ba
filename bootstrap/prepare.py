"""Sets up what a command of run.py needs."""

import argparse
import hashlib
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from bootstrap import comfyui, paths
from bootstrap.console import SetupError
from bootstrap.packages import venv_stages
from bootstrap.processes import query
from bootstrap.stages import Stage, set_up
from bootstrap.venv import Venv

# torchvision's own warning beside a CPU build of PyTorch; nothing here reads files with it.
QUIET = {"PYTHONWARNINGS": "ignore:Failed to load image Python extension:UserWarning"}
CHECK_MODULES = ("ruff", "mypy", "check_jsonschema")


class Setup(NamedTuple):
    """The Python, the ComfyUI and the environment variables to run with."""

    python: Path
    comfyui: Path
    env: dict[str, str]


def prepare(args: argparse.Namespace, tests: bool = False) -> Setup:
    """Sets up the environment and ComfyUI where they are missing.

    Args:
        args: The command's options `comfyui`, `python` and, of `test`, `only_tests`.
        tests: Whether the packages of tests and checks are needed.
    """
    given = Path(args.comfyui).expanduser().absolute() if args.comfyui else None
    if given:
        comfyui.check(given)
    suffix = "-" + hashlib.sha256(str(given).encode()).hexdigest()[:8] if given else ""
    venv = Venv(paths.ROOT / f".venv{suffix}")
    stages: list[Stage] = []
    if args.python:
        checks = CHECK_MODULES if tests and not args.only_tests else ()
        python = own_python(args.python, ("pytest", *checks) if tests else ())
    else:
        python = venv.python
        stages += venv_stages(venv, given and given / "requirements.txt", tests)
    if not given:
        stages.append(comfyui.stage(python))
    set_up(venv, stages)
    host = given or paths.COMFYUI
    path = os.pathsep.join(filter(None, [str(paths.ROOT), os.environ.get("PYTHONPATH")]))
    return Setup(python, host, {**os.environ, "COMFYUI_DIR": str(host), "PYTHONPATH": path})


def own_python(name: str, modules: tuple[str, ...]) -> Path:
    """The Python that the user names, which must have ComfyUI's packages and these `modules`."""
    found = shutil.which(str(Path(name).expanduser()))
    if not found:
        raise SetupError(f"--python {name} is not a program: give a Python executable", 2)
    needed = ["torch", "torchvision", "aiohttp", *modules]
    code = f"import importlib.util as u; print(*[n for n in {needed} if not u.find_spec(n)])"
    if missing := query(Path(found), code):
        raise SetupError(f"--python {name} lacks {missing}: install these into it", 2)
    return Path(found)
