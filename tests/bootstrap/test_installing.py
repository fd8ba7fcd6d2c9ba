"""Packages: their pins, and what uv and pip are called with. No network."""

import os
import sys
from pathlib import Path

import pytest
from paths import ROOT

from bootstrap import packages, paths
from bootstrap.console import SetupError
from bootstrap.packages import host_requirements, torchvision_candidates, venv_stages
from bootstrap.uv import pip_settings, uv_environment
from bootstrap.venv import Venv

# uv


class Commands:
    """A log that records the commands of installers; `failing` programs fail."""

    def __init__(self, *failing: str) -> None:
        self.failing, self.commands, self.env = failing, [], {}

    def run(self, *command, env=None) -> bool:
        self.commands.append([str(part) for part in command])
        self.env = env or {}
        return Path(self.commands[-1][0]).name not in self.failing

    def must_run(self, *command) -> None:
        if not self.run(*command):
            raise self.failure()

    def failure(self) -> SetupError:
        return SetupError("failed")


@pytest.fixture
def uv(tmp_path, monkeypatch) -> str:
    program = tmp_path / "bin" / ("uv.exe" if sys.platform == "win32" else "uv")
    program.parent.mkdir()
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setattr(packages, "uv_environment", lambda python: {"FOR": str(python)})
    return str(program)


def test_uv_makes_the_environment_and_installs(root, uv, monkeypatch):
    venv, log = Venv(root / ".venv"), Commands()
    venv.directory.mkdir()
    made = iter([False, True])
    monkeypatch.setattr(Venv, "usable", lambda self: next(made))
    for stage in venv_stages(venv, None, True)[:3]:
        stage.action(log)
    options = ["--seed", "--allow-existing", "--no-project", "--python", sys.executable]
    install = [uv, "pip", "install", "--python", str(venv.python)]
    torch, base = (str(paths.REQUIREMENTS / f"{name}.txt") for name in ("torch", "base"))
    assert log.commands == [
        [uv, "venv", *options, str(venv.directory)],
        [*install, "-r", torch, "-c", base],
        [*install, "-r", base, "-c", torch],
    ]
    assert log.env == {"FOR": str(venv.python)}


def test_where_uv_fails_pip_installs(root, uv):
    venv, log = Venv(root / ".venv"), Commands(Path(uv).name)
    venv.directory.mkdir()
    (venv.directory / "half").mkdir()
    create, torch, *_ = venv_stages(venv, None, False)
    create.action(log)
    torch.action(log)
    assert not (venv.directory / "half").exists()
    assert [command[:4] for command in log.commands[1::2]] == [
        [sys.executable, "-m", "venv", str(venv.directory)],
        [str(venv.python), "-m", "pip", "install"],
    ]


def test_without_uv_pip_installs(root, monkeypatch):
    monkeypatch.setenv("PATH", "")
    venv, log = Venv(root / ".venv"), Commands("python", "python.exe")
    install = venv_stages(venv, None, True)[1].action
    with pytest.raises(SetupError):
        install(log)
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    files = [
        "-r",
        str(paths.REQUIREMENTS / "torch.txt"),
        "-c",
        str(paths.REQUIREMENTS / "base.txt"),
    ]
    assert log.commands == [[str(venv.python), "-m", "pip", "install", *options, *files]]


def test_pips_settings_are_read_with_the_environment_last():
    listed = """
:env:.find-links='/wheels'
global.extra-index-url='https://a.example/simple\\nhttps://b.example/simple'
global.find-links='/other'
install.constraint='c.txt'
"""
    assert pip_settings(listed) == {
        "extra-index-url": ["https://a.example/simple", "https://b.example/simple"],
        "find-links": ["/wheels"],
        "constraint": ["c.txt"],
    }


def test_uv_asks_where_pip_asks(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://a.example/simple https://b.example/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "/one /two")
    monkeypatch.setenv("UV_FIND_LINKS", "/mine")
    monkeypatch.setenv("PIP_CERT", "/cert.pem")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    env = uv_environment(sys.executable)
    assert env["UV_EXTRA_INDEX_URL"] == "https://a.example/simple https://b.example/simple"
    assert env["UV_FIND_LINKS"] == "/mine"
    assert env["SSL_CERT_FILE"] == "/cert.pem"
    assert env["UV_INDEX_STRATEGY"] == "unsafe-best-match"


def test_the_python_of_an_environment_of_uv_is_known(root):
    venv = Venv(root / ".venv")
    venv.directory.mkdir()
    (venv.directory / "pyvenv.cfg").write_text("uv = 0.13.9\nversion_info = 3.12.1\n")
    assert venv.stamp("digest") == "digest 3.12.1"


# Requirements


@pytest.mark.parametrize(
    ("gpu", "system", "first"),
    [(False, "linux", "0.16.2"), (True, "linux", "0.28.0"), (False, "win32", "0.28.0")],
)
def test_torchvision_follows_the_build_of_torch(gpu, system, first):
    assert torchvision_candidates(gpu, system)[0] == first


def test_an_existing_comfyuis_requirements_cannot_replace_torch():
    text = "torch\ntorchvision\ntorchaudio>=2\ntorchsde\nkornia>=0.7\nspandrel\neinops\n# x\nav>=14"
    assert host_requirements(text).split() == ["einops", "#", "x", "av>=14", "requests"]


def test_every_requirement_is_pinned():
    for file in (ROOT / "requirements").glob("*.txt"):
        lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
        assert lines
        assert [line for line in lines if "==" not in line.split(";")[0]] == []
