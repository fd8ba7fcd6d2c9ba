"""The report and the output of `teacache run`, in this process and on servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from teacache.cli.run import execute
from teacache.cli.run_remote import vary
from teacache.cli.run_results import Variation, check_report, print_variations, variation_json
from teacache.errors import ExecutionError, UserError
from teacache.hosts.comfyui.headless.session import GraphResult
from teacache.hosts.comfyui.headless.validation import ValidGraph

GRAPH = {
    "1": {"class_type": "Sample", "inputs": {"seed": 0}, "_meta": {"title": "Mine"}},
    "2": {"class_type": "Save", "inputs": {"images": ["1", 0]}},
}
DEFINITIONS = {"Sample": {"input": {"required": {"seed": ("INT", {})}}}}


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


def test_the_entries_of_variations(tmp_path: Path) -> None:
    made = Variation(1, ["1.seed=1"], GRAPH, tmp_path, "http://a", result(tmp_path))
    assert variation_json(made, tmp_path) == {
        "server": "http://a",
        "settings": ["1.seed=1"],
        "status": "success",
        "seconds": 1.5,
        "files": {"2": ["sub/a.png"], "made:1": ["b.png"]},
        "runs": result(tmp_path).reports,
    }
    failed = Variation(2, [], GRAPH, tmp_path, "http://a", failure=ExecutionError("no"))
    head = {"server": "http://a", "settings": [], "status": "failed"}
    assert variation_json(failed, tmp_path) == head | {"error": "no"}
    waiting = Variation(3, [], GRAPH, tmp_path)
    assert variation_json(waiting, tmp_path)["error"] == "not run"


def test_the_output_of_variations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Variation(1, ["1.seed=1"], GRAPH, tmp_path, "http://a", result(tmp_path))
    lines = [
        "10 steps",
        "  Raise it.",
        "  Odd.",
        f"2 (Save): {tmp_path / 'sub' / 'a.png'}",
        f"{tmp_path / 'b.png'}",  # of a node that another one added while it ran
        "done in 1.5 s",
    ]
    assert print_variations([made], verbose=False) == 0
    assert capsys.readouterr().out.splitlines() == lines
    failure = ExecutionError("node 1 failed", "the traceback")
    failed = Variation(2, ["1.seed=2"], GRAPH, tmp_path, "http://b", failure=failure)
    assert print_variations([made, failed], verbose=True) == 1
    shown = capsys.readouterr()
    heads = ["001 1.seed=1 on http://a", "002 1.seed=2 on http://b"]
    assert shown.out.splitlines() == [heads[0], *lines, heads[1]]
    assert shown.err.splitlines() == ["the traceback", "teacache: http://b: node 1 failed"]


def test_every_combination_is_a_variation(tmp_path: Path) -> None:
    (alone,) = vary(GRAPH, [], DEFINITIONS, tmp_path)
    assert alone.graph == GRAPH and alone.folder == tmp_path
    one, two = vary(GRAPH, [["1.seed=1", "1.seed=2"], ["Mine.seed=3"]], DEFINITIONS, tmp_path)
    assert one.settings == ["1.seed=1", "Mine.seed=3"] and one.folder == tmp_path / "001"
    assert two.graph["1"]["inputs"]["seed"] == 3 and GRAPH["1"]["inputs"]["seed"] == 0
    with pytest.raises(UserError, match=r"node 2 \(Save\): the server does not know it"):
        vary(GRAPH, [["2.prefix=a"]], DEFINITIONS, tmp_path)


def test_a_report_that_is_a_folder(tmp_path: Path) -> None:
    check_report(None)
    check_report(tmp_path / "report.json")
    with pytest.raises(UserError, match=r"--report .*: is a folder; name a file"):
        check_report(tmp_path)
