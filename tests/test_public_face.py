"""`import teacache`: what it offers, that it is lazy, and which way the packages import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

import teacache

PACKAGE = ROOT / "teacache"
LAYERS = (
    {
        "config",
        "errors",
        "files",
        "installation",
        "journal",
        "levels",
        "digest",
        "progress",
        "report",
        "schedule",
    },
    {"profiles", "families", "environment", "demo", "tables"},
    {"engine", "jobs"},
    {"calibration", "comparison"},
    {"plots", "workflows"},
    {"hosts"},
    {"serving"},
    {"cli"},
)
"""Lowest first: a module imports from its own layer and from those below it."""
APART = {
    "profiles": {"families"},
    "workflows": {"plots"},
    "plots": {"workflows"},
    "jobs": {"engine"},
    "engine": {"jobs"},
    "demo": {"profiles", "families"},
    "calibration": {"comparison"},
    "comparison": {"calibration"},
}
"""Packages of one layer that must not know of each other."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    """The top-level names under `teacache` that a module imports, anywhere in it."""
    package = path.relative_to(PACKAGE).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - (node.level - 1)]
            names = [*base, *(node.module or "").split(".")]
            names = [name for name in names if name]
            found |= {names[0]} if names else {alias.name for alias in node.names}
    return {name for name in found if not name.startswith("__")}


def layer_of(name: str) -> int:
    (level,) = [number for number, names in enumerate(LAYERS) if name in names]
    return level


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own in ("__init__", "__main__", "pack"):
        return
    for name in imports_of(path) - {own}:
        assert layer_of(name) <= layer_of(own), f"{own} imports {name}, which is above it"
        assert name not in APART.get(own, set()), f"{own} must not know {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_hosts_know_a_host(path: Path) -> None:
    """ComfyUI and diffusers are imported under hosts/ alone, each in its own room."""
    room = path.relative_to(PACKAGE).parts
    text = path.read_text(encoding="utf-8")
    comfy = r"^\s*(?:from|import) (?:comfy\w*|nodes|folder_paths|server|execution|latent_preview)\b"
    for pattern, allowed in (
        (comfy, ("hosts", "comfyui")),
        (r"^\s*(?:from|import) diffusers\b", ("hosts", "diffusers")),
    ):
        if room[:2] != allowed:
            assert not re.findall(pattern, text, re.MULTILINE)


def test_no_package_knows_the_nodes() -> None:
    for path in modules():
        if path.parent.name == "pack":  # an installed package holds the nodes there
            continue
        assert not re.search(r"^\s*from \.+nodes", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_importing_it_loads_no_library() -> None:
    code = (
        "import sys, teacache; dir(teacache);"
        "print(*[name for name in ('torch', 'diffusers', 'numpy', 'PIL') if name in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == []


def test_every_public_name_is_there(comfy: Path) -> None:
    assert dir(teacache) == teacache.__all__ == sorted(teacache.__all__, key=str)
    for name in teacache.__all__:
        value = vars(teacache).get(name) or teacache.__getattr__(name)
        assert name == "__version__" or value.__doc__, f"{name} has no documentation"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'enable_teacash'"):
        _ = teacache.enable_teacash
    with pytest.raises(ImportError):
        from teacache import enable_teacash  # noqa: F401


def test_a_host_that_is_missing_is_named(tmp_path: Path) -> None:
    """Outside ComfyUI, and without diffusers, one line says what to do."""
    code = (
        "import sys; sys.modules['diffusers'] = None\n"
        "for name in ('apply_teacache', 'enable_teacache'):\n"
        "    try:\n"
        "        import teacache; getattr(teacache, name)\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert out.stdout.splitlines() == [
        "apply_teacache needs comfy: it runs inside ComfyUI",
        "enable_teacache needs diffusers: pip install 'teacache-studio[diffusers]'",
    ]


def test_the_version_is_told_once() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^version = "(.+)"$', text, re.MULTILINE)[1] == teacache.__version__
