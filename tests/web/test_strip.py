"""The strip shows the last run of its node, and claims nothing that is not known."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import pytest
from comfy_server import ROOT, Server
from editing import (
    FILLED,
    SEEDS,
    Editor,
    cell_kinds,
    expected_summary,
    open_editor,
    quickstart_graph,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

WAITING = "Waiting for the sampler."
UNSAMPLED = "The last prompt ended before this node sampled."


def kept_runs(editor: Editor) -> dict[str, Any]:
    """What the server answers for the shown graph: the reports of runs that have ended, by node."""
    graph = editor.page.evaluate("() => (app.rootGraph ?? app.graph).id")
    with urlopen(f"{editor.url}/teacache/runs/{graph}") as answer:
        runs = json.load(answer)["runs"]
    return {node: events[-1][1]["report"] for node, events in runs.items() if is_over(events)}


def is_over(events: list[list[Any]]) -> bool:
    return events[-1][0] == "end"


def wait_until_idle(server: Server) -> None:
    """Until no prompt is queued or running."""
    for _ in range(600):
        with urlopen(f"{server.url}/prompt") as answer:
            if not json.load(answer)["exec_info"]["queue_remaining"]:
                return
        time.sleep(0.1)
    raise AssertionError("the server is still busy")


def wait_for_line(editor: Editor, text: str) -> None:
    editor.page.wait_for_function(
        "text => document.querySelector('.teacache-line')?.innerText === text", arg=text
    )


def set_widget(editor: Editor, kind: str, name: str, value: Any) -> None:
    editor.page.evaluate(
        """([kind, name, value]) => {
            const node = app.graph.nodes.find(({ type }) => type === kind);
            node.widgets.find((widget) => widget.name === name).value = value;
        }""",
        [kind, name, value],
    )


# --- runs that the page did not hear --------------------------------------------------------------


def test_a_run_that_ends_while_the_page_loads_is_shown(
    editor: Editor, running_server: Server
) -> None:
    editor.load(quickstart_graph(steps=12))
    editor.run()
    editor.finish()
    set_widget(editor, "KSampler", "seed", next(SEEDS))
    editor.page.evaluate(
        "() => app.extensionManager.workflow.activeWorkflow.changeTracker.checkState()"
    )
    editor.run()
    editor.page.goto("about:blank")
    wait_until_idle(running_server)
    editor.open()
    editor.page.wait_for_selector(FILLED, state="attached")
    (report,) = kept_runs(editor).values()
    wait_for_line(editor, expected_summary(report))
    assert len(cell_kinds(editor)) == 12
    editor.show(0.75, (20, 60))
    editor.screenshot("after_reload")


def test_a_page_that_is_opened_during_a_run_shows_all_of_it(editor: Editor) -> None:
    editor.load(quickstart_graph(steps=120))
    editor.run()
    editor.page.wait_for_selector(FILLED, state="attached")
    editor.page.evaluate("() => localStorage.removeItem('TeaCache.runs')")
    editor.open()
    editor.page.wait_for_selector(FILLED, state="attached")
    editor.page.wait_for_function("() => document.querySelectorAll('rect').length === 120")
    text = editor.lines()[0]
    assert "of 120 steps" in text
    editor.page.wait_for_function(
        "filled => document.querySelectorAll(filled).length === 120", arg=FILLED, timeout=60_000
    )


def test_a_second_tab_shows_the_runs_of_the_first(
    editor: Editor, browser: Browser, running_server: Server
) -> None:
    graph = quickstart_graph(steps=10)
    editor.load(graph)
    editor.run()
    (first,) = editor.finish().values()
    with open_editor(browser, running_server, editor.mode) as second:
        second.load(graph)
        wait_for_line(second, expected_summary(first))
        set_widget(editor, "KSampler", "seed", next(SEEDS))
        editor.run()
        (again,) = editor.finish().values()
        wait_for_line(second, expected_summary(again))
        assert cell_kinds(second) == cell_kinds(editor)
        assert not [error for error in second.errors if "teacache" in error.lower()]
        second.load(json.loads((ROOT / "workflows" / "wan21_t2v.json").read_text()))
        assert second.lines() == ["No run yet: the steps show here while they run."]


# --- prompts that do not sample -------------------------------------------------------------------


def gated(editor: Editor, **inputs: Any) -> None:
    """The quickstart with a gate between the empty latent and the sampler, with a run behind it."""
    prompt = json.loads((ROOT / "workflows" / "api" / "quickstart.json").read_text())
    sampler = next(n for n in prompt.values() if n["class_type"] == "KSampler")
    gate = {"latent": sampler["inputs"]["latent_image"], "wait": 0.0, "fail": False}
    prompt["90"] = {"class_type": "TestGate", "inputs": gate}
    sampler["inputs"] |= {"latent_image": ["90", 0], "seed": next(SEEDS), "steps": 10}
    editor.load_api(prompt)
    set_widget(editor, "KSampler", "control_after_generate", "fixed")
    editor.run()
    editor.finish()
    editor.page.wait_for_function(
        "() => !document.querySelector('.teacache-strip[data-live=true]')"
    )


def watch_end(editor: Editor) -> None:
    editor.page.evaluate(
        """() => {
            window.over = false;
            for (const name of ["execution_success", "execution_error", "execution_interrupted"])
                app.api.addEventListener(name, () => (window.over = name));
        }"""
    )


def end_of_prompt(editor: Editor) -> str:
    editor.page.wait_for_function("() => window.over", timeout=60_000)
    return editor.page.evaluate("() => window.over")


def test_a_prompt_that_fails_before_sampling_is_not_shown_as_the_last_run(editor: Editor) -> None:
    gated(editor)
    assert "of 10 steps computed" in editor.lines()[0]
    set_widget(editor, "TestGate", "fail", True)
    watch_end(editor)
    editor.run()
    assert end_of_prompt(editor) == "execution_error"
    wait_for_line(editor, UNSAMPLED)
    assert set(cell_kinds(editor)) == {"open"}
    editor.page.keyboard.press("Escape")
    editor.fit()
    editor.screenshot("unsampled")
    editor.page.evaluate("() => window.dispatchEvent(new Event('focus'))")  # asks the server
    editor.page.wait_for_timeout(500)
    assert editor.lines() == [UNSAMPLED]
    set_widget(editor, "TestGate", "fail", False)
    set_widget(editor, "KSampler", "seed", next(SEEDS))
    editor.run()
    (report,) = editor.finish().values()
    wait_for_line(editor, expected_summary(report))


def test_a_node_waits_until_it_samples(editor: Editor) -> None:
    """Interrupted before it does, it has no run; the page that is loaded then knows it, too."""
    gated(editor)
    set_widget(editor, "TestGate", "wait", 60.0)
    watch_end(editor)
    editor.run()
    wait_for_line(editor, WAITING)
    assert set(cell_kinds(editor)) == {"open"}
    editor.fit()
    editor.screenshot("waiting")
    urlopen(Request(f"{editor.url}/interrupt", method="POST")).close()
    assert end_of_prompt(editor) == "execution_interrupted"
    wait_for_line(editor, UNSAMPLED)


def test_an_error_between_the_node_and_its_sampler(editor: Editor) -> None:
    """The node itself was executed: its strip does not go on saying what it will do."""
    gated(editor)
    set_widget(editor, "ApplyTeaCache", "max_skip", 3)
    set_widget(editor, "TestGate", "fail", True)
    watch_end(editor)
    editor.run()
    assert end_of_prompt(editor) == "execution_error"
    wait_for_line(editor, UNSAMPLED)
    editor.page.keyboard.press("Escape")


def test_what_is_not_sampled_again_keeps_its_run(editor: Editor) -> None:
    gated(editor)
    before = editor.lines(), cell_kinds(editor)
    for change in ((), ("SaveImage", "filename_prefix", "another")):
        if change:
            set_widget(editor, *change)
        watch_end(editor)
        editor.run()
        assert end_of_prompt(editor) == "execution_success"
        wait_for_line(editor, before[0][0])
        assert (editor.lines(), cell_kinds(editor)) == before


# --- several runs ---------------------------------------------------------------------------------


def two_samplers(editor: Editor, with_own_node: bool) -> None:
    """The quickstart, whose picture a second sampler goes on with, in 6 steps of its own.

    Args:
        with_own_node: Whether the second sampler has an Apply TeaCache of its own.
    """
    prompt = json.loads((ROOT / "workflows" / "api" / "quickstart.json").read_text())
    (first,) = [key for key, n in prompt.items() if n["class_type"] == "KSampler"]
    (apply,) = [key for key, n in prompt.items() if n["class_type"] == "ApplyTeaCache"]
    prompt["91"] = json.loads(json.dumps(prompt[first]))
    prompt[first]["inputs"] |= {"seed": next(SEEDS), "steps": 10}
    prompt["91"]["inputs"] |= {
        "seed": next(SEEDS), "steps": 6, "denoise": 0.6, "latent_image": [first, 0],
    }  # fmt: skip
    for node in prompt.values():
        if node["class_type"] == "VAEDecode":
            node["inputs"]["samples"] = ["91", 0]
    if with_own_node:
        prompt["92"] = json.loads(json.dumps(prompt[apply]))
        prompt["91"]["inputs"]["model"] = ["92", 0]
    editor.load_api(prompt)


def test_two_samplers_behind_one_node_show_the_last_of_them(editor: Editor) -> None:
    two_samplers(editor, with_own_node=False)
    editor.run()
    (report,) = editor.finish().values()
    assert report["steps"] == 6
    wait_for_line(editor, expected_summary(report))
    assert len(cell_kinds(editor)) == 6
    assert kept_runs(editor)["2"]["steps"] == 6


def test_two_samplers_with_a_node_each_show_their_own(editor: Editor) -> None:
    two_samplers(editor, with_own_node=True)
    editor.run()
    editor.finish()
    editor.page.wait_for_function("() => Object.keys(window.reports).length === 2")
    reports = editor.page.evaluate("() => window.reports")
    assert {node: report["steps"] for node, report in reports.items()} == {"2": 10, "92": 6}
    wanted = sorted(expected_summary(report) for report in reports.values())
    editor.page.wait_for_function(
        """wanted => JSON.stringify([...document.querySelectorAll(".teacache-line")]
            .map(({ innerText }) => innerText).sort()) === JSON.stringify(wanted)""",
        arg=wanted,
    )


def test_of_prompts_in_a_queue_the_last_one_is_shown(
    editor: Editor, running_server: Server
) -> None:
    """Also after the page is loaded again while the second one still waits."""
    editor.load(quickstart_graph())
    for steps in (30, 12):
        set_widget(editor, "KSampler", "steps", steps)
        set_widget(editor, "KSampler", "seed", next(SEEDS))
        editor.run()
    editor.page.wait_for_timeout(300)
    saved = editor.page.evaluate("() => app.graph.serialize()")
    editor.open()
    editor.load(saved)
    wait_until_idle(running_server)
    editor.page.locator(".teacache-line").filter(has_text="of 12 steps computed").wait_for()
    assert len(cell_kinds(editor)) == 12
    (report,) = kept_runs(editor).values()
    wait_for_line(editor, expected_summary(report))


# --- what is not known ----------------------------------------------------------------------------


def test_a_run_without_times_claims_no_speedup(editor: Editor) -> None:
    """As on a device that cannot take times: the report has null in their place."""
    editor.load(quickstart_graph())
    records = [
        {
            "step": step, "sigma": 1 - step / 10, "skipped": step % 2 > 0, "distance": 0.01,
            "reason": "under threshold", "accumulated": 0.01, "seconds": None,
        }
        for step in range(10)
    ]  # fmt: skip
    report = {
        "family_name": "FLUX.1", "threshold": 0.05, "steps": 10, "records": records,
        "computed": 5, "skipped": 5, "estimated_speedup": None, "saved_seconds": None,
        "bytes_held": 2000, "outcome": "done",
    }  # fmt: skip
    editor.page.evaluate(
        """report => app.api.dispatchCustomEvent("teacache.end",
            { node: "2", began: Date.now(), report })""",
        report,
    )
    editor.page.locator(".teacache-line").filter(has_text="5 of 10").wait_for()
    assert editor.lines() == ["5 of 10 steps computed · 2 kB held"]
    editor.page.locator(".teacache-cells rect").nth(3).hover(force=True)
    text = editor.page.locator(".teacache-tip").inner_text().split("\n")
    assert text[1] == "sigma 0.7000"
    editor.page.mouse.move(5, 500)
