"""The wheel, installed without the repository: what it holds, and the command in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from paths import ROOT

import teacache

pytest.importorskip("setuptools", minversion="77")
pytestmark = pytest.mark.slow

SOURCES = ("teacache", "nodes", "models", "workflows", "pyproject.toml", "setup.py", "README.md")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built in a copy: setuptools would take up files left in the repository's build."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*SOURCES, "LICENSE"):
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", target)
    subprocess.run([*PIP, "wheel", *options, source], check=True)
    (built,) = target.glob("*.whl")
    return built


class Installed:
    """An environment with the wheel and the packages of this one, seen from an empty folder."""

    def __init__(self, wheel: Path, environment: Path, folder: Path) -> None:
        self.folder = folder
        venv.create(environment, symlinks=os.name != "nt")
        scripts = "Scripts" if os.name == "nt" else "bin"
        self.python = environment / scripts / "python"
        self.command = environment / scripts / "teacache"
        site = Path(self.ask("import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        (site / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
        subprocess.run(
            [*PIP, "--python", self.python, "install", "--no-deps", "--no-index", wheel], check=True
        )
        self.pack = site / "teacache" / "pack"

    def environment(self, **more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "COMFYUI_DIR")}
        return kept | {"PYTHONUTF8": "1"} | more

    def ask(self, code: str) -> str:
        command = [self.python, "-c", code]
        answer = subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, check=True
        )
        return answer.stdout.decode()

    def run(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.command, *arguments],
            cwd=self.folder,
            env=self.environment(**environment),
            capture_output=True,
            encoding="utf-8",
            check=False,
        )


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(wheel, tmp_path_factory.mktemp("venv"), tmp_path_factory.mktemp("empty"))


def test_what_the_wheel_holds(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"{wheel.name.rsplit('-', 3)[0]}.dist-info/METADATA").decode()
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "teacache").rglob("*.py")}
    assert modules <= names
    assert "teacache/py.typed" in names
    assert {f"teacache/pack/nodes/{path.name}" for path in (ROOT / "nodes").glob("*.py")} <= names
    assert {name.split("/")[0] for name in names} == {
        "teacache",
        f"teacache_studio-{teacache.__version__}.dist-info",
    }
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    licences = f"teacache_studio-{teacache.__version__}.dist-info/licenses"
    notices = {name for name in names if name.endswith(("LICENSE", "NOTICE"))}
    assert notices == {f"{licences}/LICENSE", f"{licences}/models/NOTICE"}


def test_the_library_is_the_installed_one(installed):
    assert Path(installed.ask("import teacache; print(teacache.__file__)").strip()).parent == (
        installed.pack.parent
    )


def test_version(installed):
    result = installed.run("--version")
    assert (result.returncode, result.stdout) == (0, f"teacache {teacache.__version__}\n")


def test_families(installed):
    result = installed.run("families")
    assert result.returncode == 0
    assert result.stdout.startswith("Family ")
    assert "flux1-dev" in result.stdout


def test_a_closed_pipe(installed):
    with subprocess.Popen(
        [installed.command, "families"],
        cwd=installed.folder,
        env=installed.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode in (0, 141)


def test_profiles(installed, profile_folder):
    result = installed.run("profiles", "--diffusers", "list")
    assert result.returncode == 0
    assert "no profiles yet" in result.stdout
    assert str(profile_folder) in result.stderr


@pytest.mark.parametrize("arguments", [("profiles", "list"), ("demo",), ("run",)])
def test_a_missing_comfyui_is_one_line(installed, arguments):
    workflow = [installed.pack / "workflows" / "api" / "quickstart.json"] * (arguments == ("run",))
    result = installed.run(*arguments, *workflow)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("teacache: no ComfyUI: name one with --comfyui DIR, or set COMFYUI_DIR")
    assert "run.py" not in line


def test_generate(installed):
    options = ("--steps", "2", "--cache-backend", "tea_cache", "--out", "generated")
    result = installed.run("generate", "--model", "demo", "--prompt", "owl", *options)
    assert result.returncode == 0, result.stderr
    pictures = {path.name for path in (installed.folder / "generated").iterdir()}
    assert pictures == {"image.png", "timeline.png", "report.json"}


def test_run(installed, comfy_dir):
    workflow = installed.pack / "workflows" / "api" / "quickstart.json"
    options = ("--set", "KSampler.steps=2", "--out", "ran")
    result = installed.run("run", workflow, *options, COMFYUI_DIR=str(comfy_dir))
    assert result.returncode == 0, result.stderr
    assert "2 of 2 steps computed" in result.stdout
    assert list((installed.folder / "ran").glob("*.png"))


def test_demo(installed, comfy_dir):
    options = ("--steps", "2", "--repeats", "1", "--out", "demo")
    result = installed.run("demo", *options, COMFYUI_DIR=str(comfy_dir))
    assert result.returncode == 0, result.stderr
    assert (installed.folder / "demo" / "comparison.png").is_file()
