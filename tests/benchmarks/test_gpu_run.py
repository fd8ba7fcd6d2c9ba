"""`python -m benchmarks.gpu`: all of it with tiny models, its journal, its page and its time."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import ROOT

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

from benchmarks.gpu import session as session_module
from benchmarks.gpu.__main__ import chosen_cases, chosen_device, main
from benchmarks.gpu.cached_bytes import FAITHFUL, FORECAST, held_bytes
from benchmarks.gpu.cases import CASES, COSTS, Case, why_not
from benchmarks.gpu.models import REAL, TINY
from benchmarks.gpu.page import page_of
from benchmarks.gpu.rows import KINDS, Plan, Row
from benchmarks.gpu.session import REHEARSAL, Session, measure_rows, open_rows, plan_of
from benchmarks.gpu.timing import PeakMemory
from benchmarks.journal import resumed
from benchmarks.testbeds import COMFYUI
from teacache.errors import UserError
from teacache.journal import Record, read_records

CPU = torch.device("cpu")
STEPS = REHEARSAL[0]
SKIPPED = {"forecast": 3, "residual": 4}
"""Of the steps of a rehearsal, those that are skipped."""


def rehearse(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--out", str(out), *options]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def rehearsal(comfy_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a rehearsal of all rows."""
    out = tmp_path_factory.mktemp("gpu")
    done = rehearse(out, "--minutes", "30", "--comfyui", str(comfy_dir))
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def rows(rehearsal: Path) -> dict[str, Record]:
    records = read_records(rehearsal / "gpu_tiny.jsonl")
    return {record["case"]: record for record in records[1:]}


@pytest.mark.slow
def test_every_row_is_measured_and_sound(rows: dict[str, Record]) -> None:
    assert list(rows) == [case.name for case in CASES]
    for name, row in rows.items():
        assert "failed" not in row and "left_out" not in row and row["seconds"] > 0, row
        for way, found in row.get("ways", {}).items():
            assert found["finite"] and found["total"] > 0 and len(found["pattern"]) == STEPS, name
            assert (found["skip"] is None) == way.startswith("no cache")
            if way.startswith("no cache"):
                assert found["step"] > 0 and found["pattern"] == "c" * STEPS
            else:
                assert found["limit"] >= 1 or found["skip"] > 0
            for kind, count in SKIPPED.items():
                assert not way.startswith(kind) or found["pattern"].count("s") == count, name


@pytest.mark.slow
def test_what_was_held_is_what_is_counted(rows: dict[str, Record]) -> None:
    compared = 0
    for case in CASES:
        for way, found in rows[case.name].get("ways", {}).items():
            method = {"forecast": FORECAST, "residual": FAITHFUL}.get(way.partition(",")[0])
            if method is not None:
                counted = held_bytes(TINY[case.model], case.host, method)
                assert found["held"] == counted, (case.name, way)
                compared += 1
    assert compared > 40


@pytest.mark.slow
def test_no_promise_is_broken(rows: dict[str, Record]) -> None:
    for case in CASES:
        for way, found in rows[case.name].get("reads", {}).items():
            assert found["broken"] == "", (case.name, way)
            assert sum(found["waits"]) == sum(found["places"].values()) >= found["counted"] > 0


@pytest.mark.slow
def test_nothing_is_compiled_again(rows: dict[str, Record]) -> None:
    for case in CASES:
        if case.kind == "compile":
            row = rows[case.name]
            assert row["graphs"] > 0 and row["compiled_again"] == 0, case.name


@pytest.mark.slow
def test_the_page_shows_every_row(rehearsal: Path) -> None:
    page = (rehearsal / "gpu_tiny.md").read_text(encoding="utf-8")
    assert page == page_of(read_records(rehearsal / "gpu_tiny.jsonl"))
    assert "A rehearsal" in page and "Not measured" not in page and "not finite" not in page
    for heading in ("A step", "Waiting for the device", "Beside other caches", "torch.compile",
                    "Cached values in main memory", "Weights in 8 bits"):  # fmt: skip
        assert f"\n## {heading}\n" in page
    assert all(size.title in page for size in TINY.values())


@pytest.mark.slow
def test_it_goes_on_where_it_stopped(rehearsal: Path, comfy_dir: Path) -> None:
    journal = rehearsal / "gpu_tiny.jsonl"
    whole = journal.read_text(encoding="utf-8")
    lines = whole.splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]) + lines[-1][:20], encoding="utf-8")
    last = CASES[-1].name
    again = rehearse(rehearsal, "--minutes", "0.01", "--comfyui", str(comfy_dir))
    assert again.returncode == 0 and f"{last}: not begun, " in again.stdout, again.stderr
    assert len(read_records(journal)) == len(CASES)
    page = (rehearsal / "gpu_tiny.md").read_text(encoding="utf-8")
    assert page.rstrip().endswith(f"- {last}: not measured yet")
    journal.write_text(whole, encoding="utf-8")


# --- the session, with rows that the test makes ---------------------------------------------------


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets rows of each kind be what a function returns, on models that are only named."""

    def install(row: Callable[[Any, Any, Plan], Row]) -> None:
        monkeypatch.setattr(session_module, "KINDS", dict.fromkeys(KINDS, row))
        monkeypatch.setattr(session_module, "build", lambda size, host, device, fp8: size.name)

    return install


def new_journal(folder: Path) -> Path:
    resumed(folder / "gpu.jsonl", {"tiny": True}, "--out")
    return folder / "gpu.jsonl"


def test_a_row_that_fails_is_noted_and_measured_again_last(
    made: Callable[..., None], tmp_path: Path
) -> None:
    def row(testbed: Any, size: Any, plan: Plan) -> Row:
        if size.name == "flux1":
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        return {"ways": {}}

    made(row)
    journal, cases = new_journal(tmp_path), [CASES[0], Case("sdxl", COMFYUI, "steps")]
    session = Session(CPU, TINY, True, 9.0)
    assert measure_rows(session, cases, journal) is False
    failed, good = read_records(journal)[1:]
    assert failed["failed"] == "OutOfMemoryError: CUDA out of memory." and "ways" in good
    third = Case("sdxl", COMFYUI, "reads")
    assert open_rows([failed, good], [*cases, third]) == [third, cases[0]]


def test_no_row_is_begun_that_would_take_too_long(
    made: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(session_module.time, "monotonic", lambda: clock[0])

    def row(testbed: Any, size: Any, plan: Plan) -> Row:
        clock[0] += 30.0
        return {}

    made(row)
    session = Session(CPU, TINY, True, 1.0)
    first, second, third = (Case("flux1", COMFYUI, kind) for kind in ("steps", "reads", "compile"))
    guess = session.expected(first)
    assert 1 < guess < 30 and session.expected(third) > 60
    journal = new_journal(tmp_path)
    assert measure_rows(session, [third, first, second], journal)
    assert [record["case"] for record in read_records(journal)[1:]] == [first.name, second.name]
    assert session.pace > 3, "the rows took longer than guessed"
    assert session.left == 0 and session.expected(second) > 0
    assert measure_rows(session, [second], journal) and len(read_records(journal)) == 3


def test_a_model_is_built_once_for_the_rows_that_share_it(
    made: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made(lambda testbed, size, plan: {})
    built: list[tuple[Any, ...]] = []

    class Model:
        pass

    def build(size: Any, host: str, device: Any, fp8: bool) -> Model:
        model = Model()
        built.append((size.name, host, fp8, weakref.ref(model)))
        return model

    monkeypatch.setattr(session_module, "build", build)
    session = Session(CPU, TINY, True, 9.0)
    for kind in ("steps", "reads", "fp8", "steps", "compile", "steps"):
        session.record(Case("flux1", COMFYUI, kind))
    assert [fp8 for _, _, fp8, _ in built] == [False, True, False, False]
    gc.collect()
    assert [reference() is not None for *_, reference in built] == [False, False, False, True]


def test_a_model_that_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(CPU, REAL, False, 9.0)
    session._available = 24e9
    record = session.record(Case("qwen_image", COMFYUI, "steps"))
    assert record["left_out"].startswith("needs about 4") and "has 24 GB" in record["left_out"]
    fitting = {name for name, size in REAL.items() if not why_not(size, False, 150e9)}
    assert fitting == set(REAL), "the largest accelerator is meant for all of them"
    on_a_card = {name for name, size in REAL.items() if not why_not(size, True, 24 * 2**30)}
    assert on_a_card == {"flux1", "sdxl", "wan21-1.3b", "qwen_image", "wan21-14b"}


def test_every_row_can_be_measured_and_its_time_guessed() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.model for case in CASES} == set(REAL)
    for case in CASES:
        assert case.kind in KINDS and case.kind in COSTS
        assert case.kind != "compile" or REAL[case.model].has_blocks
        size = REAL[case.model]
        plan = plan_of(size, tiny=False)
        assert 0 < case.expected_seconds(size, plan.steps, plan.repeats) < 240
    assert CASES[0].name == "flux1 / comfyui / steps"


def test_the_page_says_what_was_not_measured() -> None:
    names = ("device", "driver", "torch", "diffusers", "comfyui", "python", "teacache")
    header = {"kind": "header", "tiny": False, **dict.fromkeys(names, "x")}
    rows = [
        {"kind": "row", "case": CASES[0].name, "failed": "RuntimeError: no"},
        {"kind": "row", "case": CASES[1].name, "left_out": "needs about 60 GB"},
    ]
    page = page_of([header, *rows])
    assert f"- {CASES[0].name}: failed: RuntimeError: no" in page
    assert f"- {CASES[1].name}: needs about 60 GB" in page
    assert page.count("not measured yet") == len(CASES) - 2


def test_the_most_memory_is_asked_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name, value in (("synchronize", None), ("reset_peak_memory_stats", None),
                        ("max_memory_allocated", 7)):  # fmt: skip
        monkeypatch.setattr(
            torch.cuda, name, lambda device, name=name, value=value: (calls.append(name), value)[1]
        )
    memory = PeakMemory(torch.device("cuda", 0))
    assert calls == ["synchronize", "reset_peak_memory_stats"] and memory.read() == 7
    assert PeakMemory(CPU).read() is None


# --- what is refused ------------------------------------------------------------------------------


def test_what_cannot_be_measured_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 2
    assert capsys.readouterr().err == (
        "benchmarks.gpu: there is no CUDA device; --tiny rehearses on the processor\n"
    )
    assert main(["--tiny", "--only", "flux9"]) == 2
    assert "--only: no row has 'flux9' in its name" in capsys.readouterr().err
    assert chosen_device(None, True) == CPU
    assert [case.host for case in chosen_cases("flux1 / comfyui / steps")] == [COMFYUI]
    with pytest.raises(SystemExit):
        main(["--minutes", "0"])


def test_a_journal_of_another_device_is_not_gone_on_with(tmp_path: Path) -> None:
    path = new_journal(tmp_path)
    with pytest.raises(UserError, match=r"other settings \(device\): remove it or choose another"):
        resumed(path, {"tiny": True, "device": "another"}, "--out")
    assert json.loads(path.read_text())["kind"] == "header"
