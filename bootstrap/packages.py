"""The stages that make a virtual environment and install the packages into it."""

import hashlib
import platform
import re
import sys
from pathlib import Path

from bootstrap import paths
from bootstrap.console import SetupError
from bootstrap.installer import Log
from bootstrap.processes import query, succeeds
from bootstrap.stages import Stage
from bootstrap.venv import Venv

TORCHVISION_MATCHING = "0.28.0"
# The last release that still imports beside a CPU build of PyTorch from another source.
TORCHVISION_BESIDE_CPU = "0.16.2"
TORCHAUDIO = "2.11.0"
WITHOUT_DEPENDENCIES = {"torchsde", "kornia", "kornia-rs", "spandrel", "trampoline"}


def venv_stages(venv: Venv, host: Path | None, tests: bool) -> list[Stage]:
    """PyTorch first, the rest constrained to it; a change in one redoes those after it."""
    torch, base = paths.REQUIREMENTS / "torch.txt", paths.REQUIREMENTS / "base.txt"
    nodeps, test = paths.REQUIREMENTS / "nodeps.txt", paths.REQUIREMENTS / "test.txt"
    checks = paths.REQUIREMENTS / "checks.txt"

    def create(log: Log) -> None:
        if not venv.usable():
            venv.clear()
            log.must_run(sys.executable, "-m", "venv", venv.directory)

    def install_torch(log: Log) -> None:
        log.must_run(*pip_install(venv), "-r", torch, "-c", base)

    def install_base(log: Log) -> None:
        source = base
        if host:
            source = venv.directory / "requirements.txt"
            source.write_text(host_requirements(host.read_text(encoding="utf-8")))
        log.must_run(*pip_install(venv), "-r", source, "-c", torch)

    def install_unbound(log: Log) -> None:
        log.must_run(*pip_install(venv), "--no-deps", "-r", nodeps)
        install_torchvision(venv, log)
        install_torchaudio(venv, log)

    def install_tests(log: Log) -> None:
        log.must_run(*pip_install(venv), "-r", test, "-c", torch)
        log.must_run(*pip_install(venv), "--no-deps", "-r", checks)

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
    """Changes with any of the files and with the stage before."""
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


def pip_install(venv: Venv) -> list[str]:
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    return [str(venv.python), "-m", "pip", "install", *options]


def torchvision_candidates(gpu: bool, system: str) -> list[str]:
    """Registries offer Linux a torchvision for CUDA only; elsewhere it fits the PyTorch there."""
    if gpu or system != "linux":
        return [TORCHVISION_MATCHING]
    return [TORCHVISION_BESIDE_CPU, TORCHVISION_MATCHING]


def install_torchvision(venv: Venv, log: Log) -> None:
    gpu = query(venv.python, "import torch; print(torch.version.cuda or torch.version.hip or '')")
    for version in torchvision_candidates(bool(gpu), sys.platform):
        log.run(*pip_install(venv), "--no-deps", f"torchvision=={version}")
        if succeeds([str(venv.python), "-c", "import torchvision"]):
            return
    raise SetupError(
        f"{log.failure()}\nno torchvision imports beside this PyTorch ({gpu or 'CPU'}) on"
        f" Python {platform.python_version()}: use Python 3.10 or 3.11, or --python with your own"
    )


def install_torchaudio(venv: Venv, log: Log) -> None:
    """Optional: without it ComfyUI leaves out its audio nodes, with two tracebacks at the start."""
    installed = log.run(*pip_install(venv), "--no-deps", f"torchaudio=={TORCHAUDIO}")
    if installed and not succeeds([str(venv.python), "-c", "import torchaudio"]):
        # Beside a CPU build of PyTorch its Python part works once the CUDA libraries are gone.
        for library in (venv.site_packages() / "torchaudio" / "lib").glob("*.so"):
            library.unlink()
