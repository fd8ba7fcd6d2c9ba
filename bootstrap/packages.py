"""The stages that make a virtual environment and install the packages into it, with uv or pip."""

import hashlib
import platform
import re
import shutil
import sys
from pathlib import Path

from bootstrap import paths
from bootstrap.console import SetupError
from bootstrap.installer import Log
from bootstrap.processes import query, succeeds
from bootstrap.stages import Stage
from bootstrap.uv import uv_environment
from bootstrap.venv import Venv

TORCHVISION_MATCHING = "0.28.0"
# The last release that can be imported with a CPU build of PyTorch from another source.
TORCHVISION_BESIDE_CPU = "0.16.2"
TORCHAUDIO = "2.11.0"
WITHOUT_DEPENDENCIES = {"torchsde", "kornia", "kornia-rs", "spandrel", "trampoline"}


def venv_stages(venv: Venv, host: Path | None, tests: bool) -> list[Stage]:
    """The stages that install the packages.

    PyTorch is first and a constraint for the rest; a changed stage redoes those after it.

    Args:
        venv: The environment.
        host: requirements.txt of an existing ComfyUI, in place of base.txt.
        tests: Whether to install what tests and checks need.
    """
    torch, base = paths.REQUIREMENTS / "torch.txt", paths.REQUIREMENTS / "base.txt"
    nodeps, test = paths.REQUIREMENTS / "nodeps.txt", paths.REQUIREMENTS / "test.txt"
    checks = paths.REQUIREMENTS / "checks.txt"

    def create(log: Log) -> None:
        if not venv.usable():
            venv.clear()
            make_environment(venv, log)

    def install_torch(log: Log) -> None:
        install(venv, log, "-r", torch, "-c", base)

    def install_base(log: Log) -> None:
        source = base
        if host:
            source = venv.directory / "requirements.txt"
            source.write_text(host_requirements(host.read_text(encoding="utf-8")))
        install(venv, log, "-r", source, "-c", torch)

    def install_unbound(log: Log) -> None:
        install(venv, log, "--no-deps", "-r", nodeps)
        install_torchvision(venv, log)
        install_torchaudio(venv, log)

    def install_tests(log: Log) -> None:
        install(venv, log, "-r", test, "-c", torch)
        install(venv, log, "--no-deps", "-r", checks)

    pins = TORCHVISION_MATCHING + TORCHVISION_BESIDE_CPU + TORCHAUDIO
    first = digest_of(before=platform.machine())
    second = digest_of(torch, before=first)
    third = digest_of(host or base, before=second)
    fourth = digest_of(nodeps, before=third + pins)
    stages = [
        Stage("venv", f"virtual environment {venv.directory.name}", first, create),
        Stage("torch", "PyTorch", second, install_torch),
        Stage("base", "ComfyUI's packages", third, install_base),
        Stage("unbound", "torchvision and others", fourth, install_unbound),
    ]
    if tests:
        fifth = digest_of(test, checks, before=fourth)
        stages.append(Stage("test", "the tests' packages", fifth, install_tests))
    return stages


def digest_of(*files: Path, before: str) -> str:
    """A digest of files and of the stage before: a stage is redone when one of these changes."""
    total = hashlib.sha256(before.encode())
    for file in files:
        total.update(file.read_bytes().replace(b"\r\n", b"\n"))
    return total.hexdigest()


def host_requirements(text: str) -> str:
    """An existing ComfyUI's requirements, without what is tied to one build of PyTorch."""
    left_out = WITHOUT_DEPENDENCIES | {"torch", "torchvision", "torchaudio"}
    lines = []
    for line in text.splitlines():
        name = re.match(r"[A-Za-z0-9._-]*", line.strip())
        if name and name.group().lower().replace("_", "-") not in left_out:
            lines.append(line)
    return "\n".join([*lines, "requests", ""])


def make_environment(venv: Venv, log: Log) -> None:
    """Makes a virtual environment with pip in it, which ComfyUI's download needs."""
    if uv := shutil.which("uv"):
        # The folder has the log in it already.
        options = ("--seed", "--allow-existing", "--no-project", "--python", sys.executable)
        env = uv_environment(sys.executable)
        if log.run(uv, "venv", *options, venv.directory, env=env) and venv.usable():
            return
        venv.clear()
    log.must_run(sys.executable, "-m", "venv", venv.directory)


def install(venv: Venv, log: Log, *requirements: str | Path) -> None:
    if not try_install(venv, log, *requirements):
        raise log.failure()


def try_install(venv: Venv, log: Log, *requirements: str | Path) -> bool:
    """Installs packages with uv where there is one; with pip where there is none, or it fails."""
    if uv := shutil.which("uv"):
        command = (uv, "pip", "install", "--python", venv.python, *requirements)
        if log.run(*command, env=uv_environment(venv.python)):
            return True
    options = ("--disable-pip-version-check", "--no-input", "--progress-bar", "off")
    return log.run(venv.python, "-m", "pip", "install", *options, *requirements)


def torchvision_candidates(gpu: bool, system: str) -> list[str]:
    """Versions to try in turn: for Linux, registries have torchvision built for CUDA only."""
    if gpu or system != "linux":
        return [TORCHVISION_MATCHING]
    return [TORCHVISION_BESIDE_CPU, TORCHVISION_MATCHING]


def install_torchvision(venv: Venv, log: Log) -> None:
    gpu = query(venv.python, "import torch; print(torch.version.cuda or torch.version.hip or '')")
    for version in torchvision_candidates(bool(gpu), sys.platform):
        try_install(venv, log, "--no-deps", f"torchvision=={version}")
        if succeeds([str(venv.python), "-c", "import torchvision"]):
            return
    raise SetupError(
        f"{log.failure()}\nno torchvision imports beside this PyTorch ({gpu or 'CPU'}) on"
        f" Python {platform.python_version()}: use Python 3.10 or 3.11, or --python with your own"
    )


def install_torchaudio(venv: Venv, log: Log) -> None:
    """Installs torchaudio if possible: without it ComfyUI logs errors and lacks audio nodes."""
    imported = [str(venv.python), "-c", "import torchaudio"]
    if try_install(venv, log, "--no-deps", f"torchaudio=={TORCHAUDIO}") and not succeeds(imported):
        # Beside a CPU build of PyTorch its Python part works once the CUDA libraries are gone.
        for library in (venv.site_packages() / "torchaudio" / "lib").glob("*.so"):
            library.unlink()
