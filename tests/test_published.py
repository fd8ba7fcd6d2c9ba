"""The package of the Comfy registry: what .comfyignore leaves of the repository, and its checks."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from paths import ROOT

pathspec = pytest.importorskip("pathspec")
BARE = {"__init__.py", "LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml"}
FOLDERS = {"docs", "locales", "models", "nodes", "teacache", "web", "workflows"}

needs_git = pytest.mark.skipif(
    not (shutil.which("git") and (ROOT / ".git").exists()), reason="needs git and a repository"
)
needs_comfy_test = pytest.mark.skipif(
    not importlib.util.find_spec("comfy_test"), reason="needs comfy-test (requirements/checks.txt)"
)
needs_import_guard = pytest.mark.skipif(
    not importlib.util.find_spec("comfy_import_guard"),
    reason="needs comfy-import-guard (requirements/checks.txt)",
)


def git(folder: Path, *arguments: str | Path) -> str:
    identity = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    command = ["git", *identity, "-C", folder, *arguments]
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pack below the custom_nodes of a host, as `comfy node publish` packs it."""
    pack = tmp_path_factory.mktemp("host") / "custom_nodes" / "teacache-studio"
    lines = (ROOT / ".comfyignore").read_text().splitlines()
    ignored = pathspec.PathSpec.from_lines("gitwildmatch", lines)
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if not ignored.match_file(name) and (ROOT / name).is_file():
            (pack / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, pack / name)
    return pack


@needs_git
def test_only_what_the_pack_needs_is_published(published):
    assert {path.name for path in published.iterdir()} == BARE | FOLDERS
    assert sum(path.stat().st_size for path in published.rglob("*") if path.is_file()) < 50e6
    assert not (published / "teacache" / "pack").exists()
    assert (published / "models" / "NOTICE").is_file()


@needs_git
@needs_comfy_test
def test_comfy_test_passes_its_static_levels(published):
    command = [sys.executable, "-m", "comfy_test", "lint", published]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert result.returncode == 0, result.stdout


@needs_git
@needs_import_guard
def test_every_import_from_comfyui_is_there(published, comfy_dir, tmp_path):
    """comfy-import-guard reads ComfyUI from a git repository: one of the tree at hand."""
    repository = tmp_path / "ComfyUI"
    repository.mkdir()
    git(repository, "init", "--quiet")
    git(repository, "--work-tree", comfy_dir, "add", "--force", "*.py")
    git(repository, "commit", "--quiet", "--message", "as at hand")
    git(repository, "reset", "--quiet", "--hard")
    guard = shutil.which("comfy-import-guard", path=sysconfig.get_path("scripts"))
    options = ("--offline", "--cache-dir", tmp_path, "check", "--strict", "--no-update")
    target = ("--target", "HEAD", "--comfy-dir", published.parents[1])
    result = subprocess.run(
        [guard, *options, *target], capture_output=True, encoding="utf-8", check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 pack(s): 0 will break, 1 safe, 0 warn" in result.stdout
