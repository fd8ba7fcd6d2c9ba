"""The checks that `run.py test` runs before pytest."""

import os
import shutil
import subprocess
from pathlib import Path

from bootstrap import paths
from bootstrap.console import progress
from bootstrap.prepare import Setup

SCHEMA = ("check-jsonschema", "--builtin-schema")
FORMS = ("bug", "feature")
# The files of each command are patterns, relative to the repository.
CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy", "-p", "teacache", "-p", "benchmarks"),
    (*SCHEMA, "vendor.github-workflows", ".github/workflows/*.yml"),
    (*SCHEMA, "vendor.github-issue-forms", *(f".github/ISSUE_TEMPLATE/{n}.yml" for n in FORMS)),
    (*SCHEMA, "vendor.github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
    (*SCHEMA, "vendor.dependabot", ".github/dependabot.yml"),
    (*SCHEMA, "vendor.citation-file-format", "CITATION.cff"),
    ("zizmor", "--offline", "--quiet", "--no-progress", ".github"),
)


def run_checks(setup: Setup) -> list[str]:
    """Runs linters, type checker and the checks of configuration files.

    Returns:
        The checks that failed.
    """
    failed = []
    for check in CHECKS:
        name = " ".join(check)
        progress.live(name)
        problem = run_check(setup.python, check)
        progress.say(f"{name}: {'passed' if problem is None else 'FAILED'}")
        if problem is not None:
            print(problem, flush=True)
            failed.append(name)
    return failed


def run_check(python: Path, check: tuple[str, ...]) -> str | None:
    """Runs one command of those installed with `python`; returns its output if it fails."""
    tool, *arguments = check
    search = os.pathsep.join([str(python.parent), os.environ.get("PATH", "")])
    program = shutil.which(tool, path=search)
    if program is None:
        return f"{tool} is not installed for {python}"
    result = subprocess.run(
        [program, *(name for argument in arguments for name in expanded(argument))],
        cwd=paths.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return result.stdout.decode(errors="replace") if result.returncode else None


def expanded(argument: str) -> list[str]:
    """The files that match a pattern; anything else as it is."""
    if "*" not in argument:
        return [argument]
    return sorted(str(path) for path in paths.ROOT.glob(argument))
