"""Sets up this project and runs it: python run.py demo | test | editor.

Standard library only. The first run makes .venv and .comfyui, with uv if it is installed, else with
pip; later runs only check that they are complete.
"""

import argparse
import os
import platform
import shlex
import signal
import sys
from pathlib import Path

if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(f"run.py needs Python 3.10 or newer; this is {platform.python_version()}")

# An embedded Python, or one in safe-path mode, does not import from the script's folder.
sys.path.append(str(Path(__file__).resolve().parent))

from bootstrap import paths
from bootstrap.browser import get_browser, opens_the_editor
from bootstrap.checks import run_checks
from bootstrap.console import SetupError, progress
from bootstrap.editor import serve
from bootstrap.prepare import QUIET, prepare
from bootstrap.processes import run_child


def demo(args: argparse.Namespace, extra: list[str]) -> int:
    setup = prepare(args)
    return run_child([str(setup.python), "-m", "teacache", "demo", *extra], QUIET | setup.env)


def test(args: argparse.Namespace, extra: list[str]) -> int:
    setup = prepare(args, tests=True)
    env = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", **setup.env}
    if args.without_editor:
        extra = ["--without-editor", *extra]
    if opens_the_editor([*shlex.split(os.environ.get("PYTEST_ADDOPTS", "")), *extra]):
        env["CHROMIUM"] = get_browser(setup.python)
    failed = [] if args.only_tests else run_checks(setup)
    where = [] if any(item.startswith("tests") for item in extra) else ["tests"]
    progress.say("pytest")
    options = ["-c", "tests/pytest.ini", "--rootdir", "."]
    command = [str(setup.python), "-m", "pytest", *options, *where, *extra]
    status = run_child(command, env, paths.ROOT)
    if failed:
        print(f"run.py: not passed: {', '.join(failed)}", file=sys.stderr)
    return status or int(bool(failed))


def editor(args: argparse.Namespace, extra: list[str]) -> int:
    return serve(prepare(args), args.port, not args.no_browser, extra)


COMMANDS = {
    "demo": (
        demo,
        "sample with the demo model, with and without the cache",
        "Further arguments (--prompt, --seed, --steps, --threshold, --out ...) go to the demo;"
        " 'run.py demo -- --help' lists them.",
    ),
    "test": (
        test,
        "run the checks and the tests",
        "Further arguments go to pytest: 'run.py test -x tests/engine/test_policy.py'.",
    ),
    "editor": (
        editor,
        "open the visual editor with this pack in it",
        "Further arguments go to ComfyUI's main.py.",
    ),
}


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(prog="run.py", description="Sets up this project and runs it.")
    commands = main.add_subparsers(dest="command", required=True, metavar="demo | test | editor")
    for name, (function, text, epilog) in COMMANDS.items():
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
                "--only-tests", action="store_true", help="run pytest only, without the checks"
            )
            sub.add_argument(
                "--without-editor",
                action="store_true",
                help="leave out the tests that open the editor in a browser",
            )
        if name == "editor":
            sub.add_argument("--port", type=int, default=8188, help="default 8188")
            sub.add_argument("--no-browser", action="store_true", help="open no browser window")
    return main


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
