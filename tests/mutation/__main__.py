"""Which small changes to the engine do the tests notice?

    python tests/mutation [MODULE ...] [--quick] [--sample N] [--seconds S] [--list] [--fresh]

Makes every mutant of the modules, and runs on each the tests that reach it, the quickest first,
until one fails. Prints a table and the mutants that no test noticed; exit status 1 if there is one
that is not listed in equivalents.py. Verdicts are kept in tests/artifacts/mutation: the same
command goes on with what was interrupted and tries survivors again. Not for Windows. Needs
requirements/mutation.txt.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive", COVERAGE_CORE="ctrace")
sys.path.append(str(ROOT))

import torch  # noqa: E402, F401  (before the forks)
from coverage_run import CoverageRun, Reach, Reached, ReachFile  # noqa: E402
from forks import MutantRun, imported_verdict, in_child, show_in  # noqa: E402
from mutants import Mutant, mutants_of  # noqa: E402
from verdicts import (  # noqa: E402
    Verdicts,
    is_equivalent,
    listing,
    stale_equivalents,
    survivors,
    table,
)

ARTIFACTS = ROOT / "tests" / "artifacts" / "mutation"
MODULES = (
    "teacache/engine/decision.py",
    "teacache/engine/policy.py",
    "teacache/engine/predictors.py",
    "teacache/schedule.py",
    "teacache/engine/indicators.py",
    "teacache/hosts/comfyui/samplers.py",
    "teacache/hosts/diffusers/branches.py",
    "teacache/engine/run.py",
    "teacache/engine/forward.py",
    "teacache/engine/blocks.py",
)
QUICK_TESTS = (
    "tests/test_schedule.py",
    "tests/engine/test_block_slots.py",
    "tests/engine/test_blocks.py",
    "tests/engine/test_decision.py",
    "tests/engine/test_device.py",
    "tests/engine/test_error_rate.py",
    "tests/engine/test_forward.py",
    "tests/engine/test_forward_predictions.py",
    "tests/engine/test_forward_ranks.py",
    "tests/engine/test_forward_values.py",
    "tests/engine/test_indicators.py",
    "tests/engine/test_policy.py",
    "tests/engine/test_predictors.py",
    "tests/engine/test_regions.py",
    "tests/engine/test_run_alone.py",
    "tests/engine/test_run_records.py",
    "tests/engine/test_transfer.py",
    "tests/hosts/comfyui/test_samplers.py",
    "tests/hosts/diffusers/test_branch_keys.py",
)
"""The tests of the modules themselves: seconds in all."""
TESTS = (
    *QUICK_TESTS,
    "tests/engine/test_costs.py",
    "tests/engine/test_presets.py",
    "tests/engine/test_run.py",
    "tests/engine/test_strategy.py",
    "tests/hosts/comfyui/test_forecast.py",
    "tests/hosts/comfyui/test_foreign_objects.py",
    "tests/hosts/comfyui/test_hostile_conds.py",
    "tests/hosts/comfyui/test_hostile_memory.py",
    "tests/hosts/comfyui/test_hostile_regions.py",
    "tests/hosts/comfyui/test_hostile_schedules.py",
    "tests/hosts/diffusers/test_branches.py",
    "tests/hosts/diffusers/test_hostile_calls.py",
)
"""The tests that are run: minutes in all, on one core."""
LONGEST = 4.0
"""Seconds of the longest test that is run on a mutant."""


def options() -> list[str]:
    return [
        *("-c", "tests/pytest.ini", "--rootdir", ".", "-s", "--tb", "no"),
        *("-p", "no:cacheprovider"),
        *("-p", "quiet_hypothesis", "--basetemp", str(ARTIFACTS / "tmp")),
    ]


def main(arguments: Sequence[str]) -> int:
    args = parser().parse_args(arguments)
    os.chdir(ROOT)
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    if args.fresh:
        for file in ARTIFACTS.glob("*.json*"):
            file.unlink()
    chosen = [path for path in MODULES if not args.modules or Path(path).stem in args.modules]
    every = [mutant for path in chosen for mutant in mutants_of(ROOT, path)]
    mutants = sampled(every, args.sample, args.seed)
    verdicts = Verdicts(ARTIFACTS / "verdicts.jsonl")
    if not args.list:
        try_all(mutants, verdicts, QUICK_TESTS if args.quick else TESTS, args.seconds)
        verdicts = Verdicts(ARTIFACTS / "verdicts.jsonl")
    left = survivors(mutants, verdicts)
    stale = stale_equivalents(every)
    print(table(mutants, verdicts))
    if left:
        print("\nNo test noticed:\n" + listing(left, verdicts))
    if stale:
        print("\nListed as equivalent, but no mutant:", *stale, sep="\n  ")
    return int(bool(left or stale))


def parser() -> argparse.ArgumentParser:
    stems = [Path(path).stem for path in MODULES]
    made = argparse.ArgumentParser(prog="python tests/mutation", description=__doc__.split("\n")[0])
    made.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(stems)}")
    made.add_argument("--sample", type=int, metavar="N", help="at most N mutants of each module")
    made.add_argument("--seed", type=int, default=0, help="of the sample; default 0")
    made.add_argument(
        "--seconds", type=float, default=60.0, help="of tests for one mutant; default 60"
    )
    made.add_argument(
        "--quick", action="store_true", help="only the tests of the modules themselves"
    )
    made.add_argument("--list", action="store_true", help="report what is known, and run nothing")
    made.add_argument("--fresh", action="store_true", help="forget earlier verdicts")
    return made


def sampled(mutants: Sequence[Mutant], count: int | None, seed: int) -> list[Mutant]:
    """At most `count` of each module's mutants."""
    kept: list[Mutant] = []
    for path in dict.fromkeys(mutant.path for mutant in mutants):
        group = [mutant for mutant in mutants if mutant.path == path]
        if count is not None and count < len(group):
            places = sorted(random.Random(seed).sample(range(len(group)), count))
            group = [group[place] for place in places]
        kept += group
    return kept


def try_all(
    mutants: Sequence[Mutant], verdicts: Verdicts, tests: Sequence[str], seconds: float
) -> None:
    """Test every mutant that has no verdict yet or survived so far."""
    left = []
    for mutant in mutants:
        known = verdicts.of(mutant)
        if not is_equivalent(mutant) and (known is None or not known.noticed):
            left.append(mutant)
    if not left:
        return
    reached = Reached(reach_of_tests(tests), seconds, LONGEST)
    say(f"{len(left)} mutants to test")
    start = time.monotonic()
    in_body = [mutant for mutant in left if mutant.in_body]
    others = {mutant.name for mutant in left if not mutant.in_body}
    others |= forked(in_body, reached, verdicts, tests)
    for mutant in left:
        if mutant.name in others:
            verdicts.add(imported_verdict(ROOT, mutant, reached, options()))
    say(f"tested in {(time.monotonic() - start) / 60:.1f} minutes")


def forked(
    mutants: Sequence[Mutant], reached: Reached, verdicts: Verdicts, tests: Sequence[str]
) -> set[str]:
    """Test `mutants` in forks of one pytest; the names of those that it cannot change in place."""
    reader, writer = os.pipe()

    def leave(mutant: Mutant) -> None:
        os.write(writer, f"{mutant.name}\n".encode())

    def run() -> int:
        show_in(ARTIFACTS / "testing.log")
        return pytest_main(MutantRun(ROOT, mutants, reached, verdicts.add, leave), tests)

    status = in_child(run)
    os.close(writer)
    with os.fdopen(reader) as names:
        left = set(names.read().split())
    if status:
        raise SystemExit(f"the tests could not be run: see {ARTIFACTS / 'testing.log'}")
    return left


def reach_of_tests(tests: Sequence[str]) -> dict[str, Reach]:
    """Which test reaches which lines; measured where a test file or a module has changed."""
    names = [
        file.relative_to(ROOT).as_posix()
        for path in tests
        for file in (sorted((ROOT / path).rglob("test_*.py")) or [ROOT / path])
        if file.exists()
    ]
    stale = reach_file().stale(names)
    if stale:
        say(f"measuring which lines the tests reach, in {len(stale)} files")
        start = time.monotonic()

        def run() -> int:
            show_in(ARTIFACTS / "measuring.log")
            run = CoverageRun(ROOT, MODULES)
            run.start()
            status = pytest_main(run, stale)
            reach_file().store(stale, run.measured())
            return status

        if in_child(run):
            say(f"some tests fail without any change: see {ARTIFACTS / 'measuring.log'}")
        say(f"measured in {(time.monotonic() - start) / 60:.1f} minutes")
    return reach_file().tests(names)


def reach_file() -> ReachFile:
    return ReachFile(ARTIFACTS / "reach.json", ROOT, MODULES)


def pytest_main(plugin: object, where: Sequence[str]) -> int:
    import pytest

    return int(pytest.main([*options(), *where], plugins=[plugin]))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
