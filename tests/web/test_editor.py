"""The real editor in a real Chromium, against the real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from comfy_server import ROOT, Server
from editing import (
    FILLED,
    SEEDS,
    STEPS,
    Editor,
    cell_kinds,
    expected_summary,
    open_editor,
    quickstart_graph,
)

TEMPLATES = sorted((ROOT / "workflows").glob("*.json"))
OLD = sorted((ROOT / "tests" / "data" / "workflows_old").glob("*/*.json"))

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(
    "path", TEMPLATES + OLD, ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_templates_open_without_a_missing_node(editor: Editor, path: Path) -> None:
    editor.load(json.loads(path.read_text()))
    missing = editor.page.evaluate(
        """() => app.graph.nodes
            .map(({ type }) => type)
            .filter(type => !(type in LiteGraph.registered_node_types))"""
    )
    assert not missing
    assert not editor.page.locator(".comfy-missing-nodes").count()
    for _ in range(2):
        editor.page.keyboard.press("Escape")  # the list of models to download
    if path in TEMPLATES:
        editor.fit()
        editor.screenshot(path.stem)


def test_templates_are_offered_with_their_pictures(editor: Editor) -> None:
    for path in TEMPLATES:
        for end in ("json", "jpg"):
            url = f"{editor.url}/api/workflow_templates/teacache/{path.stem}.{end}"
            assert editor.page.request.get(url).ok
    help_page = f"{editor.url}/extensions/teacache/docs/ApplyTeaCache.md"
    assert editor.page.request.get(help_page).text().startswith("# Apply TeaCache")
    offered = editor.page.request.get(f"{editor.url}/api/workflow_templates").json()
    assert sorted(offered["teacache"]) == [path.stem for path in TEMPLATES]


def test_the_strip_fills_step_by_step(editor: Editor) -> None:
    editor.load(quickstart_graph())
    editor.page.wait_for_selector(".teacache-strip")
    assert editor.page.locator(FILLED).count() == 0
    assert editor.lines() == ["No run yet: the steps show here while they run."]
    editor.page.evaluate(
        """filled => {
            window.shown = [];
            const cells = document.querySelector(".teacache-cells");
            new MutationObserver(() => window.shown.push({
                filled: document.querySelectorAll(filled).length,
                cells: cells.childElementCount,
                line: document.querySelector(".teacache-line").innerText,
            })).observe(cells, { subtree: true, childList: true, attributes: true });
        }""",
        FILLED,
    )
    editor.run()
    (report,) = editor.finish().values()
    editor.page.wait_for_function(
        "text => document.querySelector('.teacache-line').innerText === text",
        arg=expected_summary(report),
        timeout=5000,
    )
    shown = editor.page.evaluate("() => window.shown")
    counts = [state["filled"] for state in shown]
    assert counts == sorted(counts) and counts[-1] == STEPS
    during = [state for state in shown if 0 < state["filled"] < STEPS]
    assert len({state["filled"] for state in during}) > STEPS / 2, "the cells came in lumps"
    assert {state["cells"] for state in during} == {STEPS}, "the cells to come are not shown"
    assert all(f"of {STEPS} steps · " in state["line"] for state in during)
    forced = {"first step", "last step", "error not known yet"}
    assert cell_kinds(editor) == [
        "skipped" if r["skipped"] else "forced" if r["reason"] in forced else "computed"
        for r in report["records"]
    ]
    assert report["skipped"] > 5
    head = editor.page.locator(".teacache-head").inner_text().split("\n")
    assert head == [
        f"{report['family_name']} · {report['method']}",
        f"threshold {report['threshold']:g}",
    ]
    editor.show(0.75, (20, 60))
    editor.screenshot("run")


def test_a_cell_tells_its_step(editor: Editor) -> None:
    reports = editor.page.evaluate("() => window.reports")
    (report,) = reports.values()
    record = next(r for r in report["records"] if r["skipped"] and r["step"] > 10)
    cell = editor.page.locator(".teacache-cells rect").nth(record["step"])
    cell.hover(force=True)
    text = editor.page.locator(".teacache-tip").inner_text()
    assert f"Step {record['step'] + 1} · skipped: under the threshold" in text
    assert f"change {record['distance']:.4f}" in text
    editor.screenshot("tooltip")
    editor.page.mouse.move(5, 500)
    assert editor.page.locator(".teacache-tip").count() == 0


def test_the_last_run_survives_a_reload(editor: Editor) -> None:
    before = editor.lines(), cell_kinds(editor)
    editor.open()
    editor.page.wait_for_selector(FILLED, state="attached")
    assert (editor.lines(), cell_kinds(editor)) == before


def test_two_nodes_in_one_graph(editor: Editor) -> None:
    prompt = json.loads((ROOT / "workflows" / "api" / "ab_comparison.json").read_text())
    prompt["2"]["inputs"] |= {"rel_l1_thresh": 0.3, "auto_threshold": False}
    prompt["21"] = json.loads(json.dumps(prompt["2"]))  # the same settings, yet its own run
    prompt["7"]["inputs"]["model"] = ["21", 0]
    prompt["7"]["inputs"] |= {"seed": next(SEEDS), "steps": 18}
    prompt["13"]["inputs"] |= {"seed": next(SEEDS), "steps": 22}
    editor.load_api(prompt)
    editor.run()
    editor.page.wait_for_function("() => Object.keys(window.reports).length === 2")
    reports = editor.finish()
    assert (reports["21"]["steps"], reports["2"]["steps"]) == (18, 22)
    assert min(report["skipped"] for report in reports.values()) > 0
    assert sorted(editor.lines()) == sorted(map(expected_summary, reports.values()))
    metrics = editor.page.locator(".teacache-text")
    metrics.filter(has_text="PSNR").wait_for(state="attached")
    assert " · SSIM 0." in metrics.inner_text()
    editor.fit()
    editor.screenshot("two_nodes")


def test_a_run_of_another_workflow_stays_off_the_graph(editor: Editor) -> None:
    graph = quickstart_graph(steps=20)
    editor.load(graph)
    editor.run()
    editor.page.wait_for_selector(FILLED, state="attached")
    editor.load(json.loads((ROOT / "workflows" / "wan21_t2v.json").read_text()))
    editor.page.keyboard.press("Escape")
    (report,) = editor.finish().values()
    assert editor.lines() == ["No run yet: the steps show here while they run."]
    editor.load(graph)
    editor.page.wait_for_selector(FILLED, state="attached")
    assert editor.lines() == [expected_summary(report)]


def test_inside_a_subgraph(editor: Editor) -> None:
    editor.load(quickstart_graph(steps=16))
    editor.page.evaluate(
        """() => {
            const node = app.graph.nodes.find(({ type }) => type === "ApplyTeaCache");
            app.graph.convertToSubgraph(new Set([node]));
        }"""
    )
    editor.run()
    reports = editor.finish()
    ((node, report),) = reports.items()
    assert ":" in node
    editor.page.evaluate(
        "() => app.canvas.openSubgraph(app.graph.nodes.find(n => n.isSubgraphNode()).subgraph)"
    )
    editor.page.wait_for_selector(FILLED, state="attached")
    assert editor.lines() == [expected_summary(report)]
    editor.screenshot("subgraph")
    editor.page.evaluate("() => app.canvas.setGraph(app.graph.rootGraph ?? app.graph)")


def choose(editor: Editor, kind: str, **values: Any) -> None:
    """Sets widgets of the graph's node of this type."""
    editor.page.evaluate(
        """([kind, values]) => {
            const node = app.graph.nodes.find(({ type }) => type === kind);
            for (const [name, value] of Object.entries(values))
                node.widgets.find((widget) => widget.name === name).value = value;
        }""",
        [kind, values],
    )


def test_a_preset_tells_its_evidence(editor: Editor) -> None:
    editor.load(quickstart_graph(steps=30))
    choose(editor, "ApplyTeaCache", preset="2.0x")
    editor.run()
    (report,) = editor.finish().values()
    advice = editor.page.locator(".teacache-advice")
    advice.filter(has_text="preset 2.0x: ").wait_for()
    assert advice.inner_text().split("\n")[0] == report["evidence"]
    assert "forecast, 15 of 30 steps computed" in report["evidence"]
    assert (report["computed"], report["skipped"]) == (15, 15)
    head = editor.page.locator(".teacache-head").inner_text().split("\n")
    assert head == [f"{report['family_name']} · forecast", "2.0x: 15 of 30"]
    assert set(cell_kinds(editor)) == {"forced", "computed", "skipped"}
    editor.screenshot("preset")


def test_a_graph_with_removed_values_keeps_them_and_runs_with_auto(editor: Editor) -> None:
    graph = quickstart_graph(steps=12)
    (node,) = [node for node in graph["nodes"] if node["type"] == "ApplyTeaCache"]
    node["widgets_values"] += ["forecast", "auto", "spectral", "blend", "auto"]
    editor.load(graph)
    shown = editor.page.evaluate(
        """() => {
            const { widgets } = app.graph.nodes.find(({ type }) => type === "ApplyTeaCache");
            const kept = widgets.filter(({ name }) => ["indicator", "predictor"].includes(name));
            return kept.map(({ value }) => value);
        }"""
    )
    assert shown == ["spectral", "blend"]
    editor.run()
    (report,) = editor.finish().values()
    assert (report["method"], report["outcome"]) == ("forecast", "done")
    said = "indicator=spectral was removed: indicator=auto is used in its place."
    editor.page.locator(".teacache-advice").filter(has_text=said).wait_for(state="attached")
    editor.screenshot("removed_values")


def test_a_calibration_is_shown_found_and_deleted(editor: Editor, running_server: Server) -> None:
    graph = json.loads((ROOT / "workflows" / "calibrate.json").read_text())
    made = running_server.base / "user" / "teacache" / "profiles" / "made here.json"
    try:
        editor.load(graph)
        settings = {"name": made.stem, "seed": next(SEEDS), "steps": 8, "seeds": 1, "trials": 0}
        choose(editor, "TeaCacheCalibrate", **settings)
        editor.run()
        editor.page.wait_for_function("() => window.finished", timeout=60_000)
        table = editor.page.locator(".teacache-table").filter(has_text="speed-up")
        assert table.inner_text().startswith("Profile made here · sd3 · ")
        assert table.inner_text().count("x  ") == 5  # 1.5x and 2x to 4x, and the default
        assert made.is_file()
        editor.fit()
        editor.screenshot("calibrated")

        editor.load(quickstart_graph(steps=8))
        choose(editor, "ApplyTeaCache", preset="2.0x")
        editor.run()
        (report,) = editor.finish().values()
        assert report["evidence"].startswith("preset 2.0x: profile made here: 4 of 8 steps planned")
        editor.page.locator(".teacache-advice").filter(has_text="made here").wait_for()

        prompt = {"class_type": "TeaCacheProfiles", "inputs": {"action": "delete"}}
        prompt["inputs"] |= {"profile": made.stem, "new_name": ""}
        editor.load_api({"1": prompt})
        editor.run()
        said = editor.page.locator(".teacache-table").filter(has_text="made here is deleted")
        said.wait_for()
        assert not made.exists()
    finally:
        made.unlink(missing_ok=True)


def test_a_node_taken_away_while_it_runs(editor: Editor) -> None:
    editor.load(quickstart_graph(steps=15))
    editor.run()
    editor.page.wait_for_selector(FILLED, state="attached")
    editor.page.evaluate(
        "() => app.graph.remove(app.graph.nodes.find(({ type }) => type === 'ApplyTeaCache'))"
    )
    editor.finish()
    assert editor.page.locator(".teacache-strip").count() == 0


def test_settings(editor: Editor) -> None:
    editor.load(quickstart_graph())
    put = "([key, value]) => app.extensionManager.setting.set(key, value)"
    editor.page.keyboard.press("Control+,")
    dialog = editor.page.locator(".settings-sidebar, .p-dialog, [role=dialog]").last
    dialog.wait_for()
    dialog.get_by_text("TeaCache", exact=True).first.click()
    editor.page.get_by_text("Threshold of new Apply TeaCache nodes").wait_for()
    editor.screenshot("settings")
    editor.page.keyboard.press("Escape")
    editor.page.evaluate(put, ["TeaCache.ShowStrip", False])
    editor.page.locator(".teacache-strip").wait_for(state="detached")
    editor.page.evaluate(put, ["TeaCache.ShowStrip", True])
    editor.page.locator(".teacache-strip").wait_for(state="attached")
    editor.page.evaluate(put, ["TeaCache.DefaultThreshold", 0.35])
    thresholds = editor.page.evaluate(
        """() => {
            app.graph.add(LiteGraph.createNode("ApplyTeaCache"));
            const nodes = app.graph.nodes.filter(({ type }) => type === "ApplyTeaCache");
            const threshold = ({ name }) => name === "rel_l1_thresh";
            return nodes.map(({ widgets }) => widgets.find(threshold).value);
        }"""
    )
    editor.page.evaluate(put, ["TeaCache.DefaultThreshold", 0.2])
    assert thresholds == [0.2, 0.35]


def record(step: int, skipped: bool) -> dict[str, Any]:
    return {
        "step": step, "sigma": 1 - step / 1000, "skipped": skipped, "distance": 0.01,
        "reason": "under threshold" if skipped else "over threshold",
        "accumulated": 0.01 * (step % 7 + 1), "seconds": 0.01 if skipped else 0.2,
    }  # fmt: skip


@pytest.mark.parametrize("steps", [4, 1000])
def test_few_and_many_steps(editor: Editor, steps: int) -> None:
    editor.load(quickstart_graph())
    records = [record(step, step % 7 > 0) for step in range(steps)]
    editor.page.evaluate(
        """([steps, records]) => {
            const tell = (event, data) =>
                app.api.dispatchCustomEvent(`teacache.${event}`, { node: "2", ...data });
            const report = { family_name: "FLUX.1", profile: "flux1-dev", threshold: 0.05, steps };
            tell("start", { began: Date.now(), report });
            for (const record of records) tell("step", { record });
        }""",
        [steps, records],
    )
    editor.page.wait_for_function(
        "([filled, steps]) => document.querySelectorAll(filled).length === steps",
        arg=[FILLED, steps],
    )
    assert editor.page.locator(".teacache-cells").bounding_box()["width"] > 100
    editor.screenshot(f"steps_{steps}")


def test_a_model_that_is_left_as_it_is_says_so(editor: Editor) -> None:
    editor.load(quickstart_graph())
    why = "it restores video in a single step, so that there is no step to skip"
    sentence = f"SeedVR2: {why}: the model is left as it is."
    editor.page.evaluate(
        """notes => app.api.dispatchCustomEvent("teacache.ready",
            { node: "2", began: Date.now(), cached: false, line: "", notes })""",
        [sentence],
    )
    advice = editor.page.locator(".teacache-advice")
    advice.filter(has_text=sentence).wait_for()
    assert editor.page.locator(FILLED).count() == 0
    editor.screenshot("left_as_it_is")


def test_every_reason_has_its_colour(editor: Editor) -> None:
    from teacache.report import SKIPPING, Reason, StepRecord

    records = [
        StepRecord(0, 1.0, reason in SKIPPING, reason, None, 0.0, 1.0).to_json()
        for reason in Reason
    ]
    found = editor.page.evaluate(
        """async records => {
            const { kindOf } = await import("/extensions/teacache/run.js");
            return records.map(kindOf);
        }""",
        records,
    )
    assert found == [reason.kind.value for reason in Reason]
    changed = {Reason.NEW_BRANCH, Reason.MISMATCH, Reason.UNCACHED}
    assert {reason for reason, kind in zip(Reason, found, strict=True) if kind == "changed"} == (
        changed
    )
    style = (ROOT / "web" / "teacache.css").read_text()
    assert all(f'[data-kind="{kind}"]' in style for kind in found)


def test_another_language_and_a_light_theme(browser: Browser, running_server: Server) -> None:
    settings = {"Comfy.Locale": "zh", "Comfy.ColorPalette": "light"}
    with open_editor(browser, running_server, "classic", **settings) as editor:
        editor.load(quickstart_graph(steps=12))
        editor.page.wait_for_selector(".teacache-strip")
        assert editor.lines() == ["尚未运行：运行时会在此逐步显示。"]
        editor.run()
        (report,) = editor.finish().values()
        assert editor.lines()[0].startswith(f"12 步中计算了 {report['computed']} · ")
        editor.show(0.75, (20, 60))
        editor.screenshot("light_zh")
        editor.page.evaluate("() => app.extensionManager.setting.set('Comfy.Locale', 'en')")
        editor.page.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
