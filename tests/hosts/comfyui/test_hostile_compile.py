"""torch.compile beside the cache: ComfyUI's node and block by block, in both node orders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from paths import TESTS

pytestmark = pytest.mark.slow
LONG = bool(os.environ.get("TEACACHE_LONG"))
ORDERS = ("compile-first", "cache-first")
CASES = [
    "whole/faithful/compile-first",
    "whole/faithful/cache-first",
    "block/faithful/compile-first",
    "block/forecast/cache-first",
]
EVERY_CASE = [
    f"{part}/{mode}/{order}"
    for part in ("whole", "block")
    for mode in ("off", "forecast", "faithful")
    for order in ORDERS
]
only_long = pytest.mark.skipif(not LONG, reason="takes minutes: set TEACACHE_LONG=1")


def runs_of(comfy_dir: Path, backend: str, cases: list[str], *more: str) -> dict[str, Any]:
    """What `compile_runs.py` saw, by case."""
    script = TESTS / "support" / "compile_runs.py"
    done = subprocess.run(
        [sys.executable, str(script), str(comfy_dir), backend, *cases, *more],
        capture_output=True,
        text=True,
        cwd=script.parent,
        check=False,
    )
    found = [line[5:] for line in done.stdout.splitlines() if line.startswith("RUNS ")]
    assert done.returncode == 0 and len(found) == len(cases), done.stderr[-3000:]
    return {seen["case"]: seen["runs"] for seen in map(json.loads, found)}


@pytest.fixture(scope="module")
def seen(comfy_dir: Path) -> dict[str, Any]:
    return runs_of(comfy_dir, "count", CASES)


@pytest.mark.parametrize("case", CASES)
def test_skips_happen_and_nothing_is_compiled_again(seen: dict[str, Any], case: str) -> None:
    """A skip runs fewer compiled graphs than any computed step; the second run makes none."""
    first, second = seen[case]
    assert 0 < first["graphs"] == second["graphs"]
    for run in (first, second):
        assert run["apart"] < 1e-4, "the picture is not that of the model without torch.compile"
        assert run["pattern"].count("s") >= 2
        kinds: dict[str, list[int]] = {"c": [], "s": []}
        for kind, count in zip(run["pattern"], run["ran"], strict=True):
            kinds[kind].append(count)
        assert max(kinds["s"]) < min(kinds["c"])
        if "forecast" in case or "block" in case:
            assert max(kinds["s"]) == 0


@only_long
def test_what_is_compiled_with_and_without_the_cache(comfy_dir: Path) -> None:
    """The same, but where a whole model is compiled whose blocks are skipped: it is in pieces."""
    seen = runs_of(comfy_dir, "count", EVERY_CASE, "--lengths")
    native = {part: seen[f"{part}/off/compile-first"] for part in ("whole", "block")}
    for case, runs in seen.items():
        made = [run["graphs"] for run in runs]
        assert made[1] == made[0] and made[3] == made[2], case
        pieces = 6 if case.startswith("whole/faithful") else 0
        assert made[-1] <= native[case.split("/")[0]][-1]["graphs"] + pieces, case


@only_long
def test_inductor_gives_the_same_picture(comfy_dir: Path) -> None:
    """The node as it stands in the graph, with the compiler that it offers."""
    seen = runs_of(comfy_dir, "inductor", CASES)
    for case, runs in seen.items():
        assert len({run["pattern"] for run in runs}) == 1 and "s" in runs[0]["pattern"], case
        assert max(run["apart"] for run in runs) < 1e-3, case
