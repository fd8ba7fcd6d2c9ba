"""The strip shows the last run of its node, and claims nothing that is not known."""

from __future__ import annotations

import pytest
from editing import Editor, quickstart_graph

pytestmark = pytest.mark.browser


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
        """report => app.api.dispatchCustomEvent("teacache.end", { node: "2", report })""", report
    )
    editor.page.locator(".teacache-line").filter(has_text="5 of 10").wait_for()
    assert editor.lines() == ["5 of 10 steps computed · 2 kB held"]
    editor.page.locator(".teacache-cells rect").nth(3).hover(force=True)
    text = editor.page.locator(".teacache-tip").inner_text().split("\n")
    assert text[1] == "sigma 0.7000"
    editor.page.mouse.move(5, 500)
