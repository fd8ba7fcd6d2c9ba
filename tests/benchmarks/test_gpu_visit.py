"""A visit to a device: its stages, their time, and what stays of those that are stopped."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import visit
from benchmarks.gpu.visit import Stage, allowed, stages


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "photos.zip"
    path.write_bytes(b"")
    return path


def python(code: str, **more: object) -> Stage:
    return Stage("a", lambda minutes: ["-c", code], **more)  # type: ignore[arg-type]


def commands(found: list[Stage]) -> dict[str, str]:
    return {each.name: " ".join(each.command(2.0)) for each in found}


@pytest.mark.parametrize("tiny", [False, True])
def test_what_matters_most_comes_first(tmp_path: Path, archive: Path, tiny: bool) -> None:
    found = commands(stages(tmp_path, archive, "cuda", tiny, 540.0))
    assert list(found) == ["tests", "benchmark", "training", "decay", "grade"]
    assert found["tests"].endswith("tests/cuda -m not cuda" if tiny else "tests/cuda -m cuda")
    assert ("--tiny" in found["benchmark"]) == tiny and "--minutes 2.00" in found["benchmark"]
    assert f"--photos {archive} --device cuda" in found["training"]
    assert found["decay"] == f"{found['training']} --decay"


@pytest.mark.parametrize("minutes", [5, 9, 15])
def test_the_stages_share_the_time(tmp_path: Path, archive: Path, minutes: int) -> None:
    """The benchmark has what the others leave; a visit without photographs has more for it."""
    total = 60.0 * minutes
    found = stages(tmp_path, archive, "cuda", False, total)
    left, given = total, {}
    for number, stage in enumerate(found):
        given[stage.name] = allowed(stage, found[number + 1 :], left)
        left -= given[stage.name]
    assert left == pytest.approx(0) and min(given.values()) > 20
    assert given["benchmark"] == max(given.values())
    without = stages(tmp_path, tmp_path / "missing.zip", "cuda", False, total)
    more = allowed(without[1], without[2:], total - given["tests"])
    assert more == pytest.approx(total - given["tests"])


def test_every_stage_is_noted_and_keeps_its_log(tmp_path: Path) -> None:
    out, kept = tmp_path / "out", tmp_path / "made.txt"
    out.mkdir()
    chosen = [
        python("print('one')", keeps=(kept,)),
        python(f"open({str(kept)!r}, 'w').write('x'); raise SystemExit(3)", keeps=(kept,)),
        python("", needs=tmp_path / "missing"),
        python("import time; print('begun', flush=True); time.sleep(60)", seconds=2.0),
        python("print('last')"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visit, "START", 0.0)
        started = time.monotonic()
        results = visit.visit(chosen, out, 40.0)
        assert time.monotonic() - started < 30, "the stage was stopped"
    assert [result.status for result in results] == [0, 3, None, None, 0]
    assert results[2].note == f"not begun: there is no {tmp_path / 'missing'}"
    assert results[3].note == "stopped: its time was over"
    assert (out / "a.log").read_text().split() == ["one", "begun", "last"]
    assert (out / "made.txt").read_text() == "x"
    noted = json.loads((out / "visit.json").read_text())
    assert [each["status"] for each in noted] == [0, 3, None, None, 0]


def test_what_is_left_too_short_is_not_begun(tmp_path: Path) -> None:
    (result,) = visit.visit([python("print('one')")], tmp_path, visit.START / 2)
    assert result.status is None and result.note.startswith("not begun: 12 s")
    assert not (tmp_path / "a.log").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="process groups are POSIX's")
def test_a_stopped_stage_leaves_no_program_behind(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    inner = f"import time; time.sleep(4); open({str(mark)!r}, 'w')"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with (tmp_path / "log").open("ab") as log:
        assert visit.run_until([sys.executable, "-c", outer], 1.5, log) is None
    time.sleep(3.5)
    assert not mark.exists()


def test_a_wrong_stage_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        visit.main(["--out", str(tmp_path), "--only", "benchmarks"])
    assert "stages are tests, benchmark, training, decay, grade, not benchmarks" in (
        capsys.readouterr().err
    )
