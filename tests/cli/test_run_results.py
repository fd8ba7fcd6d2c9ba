"""The report and the output of a single `teacache run` in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from teacache.cli.run import execute
from teacache.cli.run_results import check_report, print_result
from teacache.errors import ExecutionError, UserError
from teacache.hosts.comfyui.headless.session import GraphResult
from teacache.hosts.comfyui.headless.validation import ValidGraph

GRAPH = {
    "1": {"class_type": "Sample", "inputs": {"seed": 0}, "_meta": {"title": "Mine"}},
    "2": {"class_type": "Save", "inputs": {"images": ["1", 0]}},
}


def result(out: Path) -> GraphResult:
    files = {"2": [out / "sub" / "a.png"], "made:1": [out / "b.png"]}
    run = {"summary": "10 steps", "advice": "Raise it.", "warnings": ["Odd."]}
    return GraphResult(1.5, {"1": 1.25, "made:1": 0.25}, files, [run])


class FakeSession:
    """Gives a result, or raises."""

    def __init__(self, output: Path, error: BaseException | None = None) -> None:
        self.output, self.error = output, error

    def execute(self, valid: ValidGraph, on_progress: Any) -> GraphResult:
        if self.error is not None:
            raise self.error
        return result(self.output)


def run_here(out: Path, error: BaseException | None = None) -> dict[str, Any]:
    """The report of a run in this process."""
    report = out / "report.json"
    session: Any = FakeSession(out, error)
    valid = ValidGraph(GRAPH, ["2"])
    if error is None:
        execute(session, valid, Path("w.json"), report, {})
    else:
        with pytest.raises(type(error)):
            execute(session, valid, Path("w.json"), report, {})
    data: dict[str, Any] = json.loads(report.read_text())
    assert data.pop("version") == 1 and data.pop("workflow") == "w.json"
    assert data.pop("started") > 0
    return data


def test_the_report_of_a_run_in_this_process(tmp_path: Path) -> None:
    assert run_here(tmp_path) == {
        "status": "success",
        "seconds": 1.5,
        "nodes": {"1": {"class_type": "Sample", "title": "Mine", "seconds": 1.25}},
        "files": {"2": ["sub/a.png"], "made:1": ["b.png"]},
        "runs": result(tmp_path).reports,
    }


@pytest.mark.parametrize("error", [ExecutionError("node 1 failed"), UserError("node 1: no")])
def test_the_report_of_a_failure(error: Exception, tmp_path: Path) -> None:
    report = run_here(tmp_path, error)
    assert report.pop("seconds") >= 0
    assert report == {"status": "failed", "error": str(error)}


def test_the_report_of_an_interruption(tmp_path: Path) -> None:
    report = run_here(tmp_path, KeyboardInterrupt())
    assert report.keys() == {"status", "seconds"} and report["status"] == "interrupted"


def test_the_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_result(GRAPH, result(tmp_path))
    assert capsys.readouterr().out.splitlines() == [
        "10 steps",
        "  Raise it.",
        "  Odd.",
        f"2 (Save): {tmp_path / 'sub' / 'a.png'}",
        f"{tmp_path / 'b.png'}",  # of a node that another one added while it ran
        "done in 1.5 s",
    ]


def test_a_report_that_is_a_folder(tmp_path: Path) -> None:
    check_report(None)
    check_report(tmp_path / "report.json")
    with pytest.raises(UserError, match=r"--report .*: is a folder; name a file"):
        check_report(tmp_path)
