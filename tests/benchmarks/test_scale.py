"""The benchmark of many jobs, with a few."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("ray", reason="needs the extra: pip install 'teacache-studio[ray]'")

from benchmarks import scale


def test_the_page_of_a_few_jobs(ray_here: None) -> None:
    text = scale.page(scale.TINY, "the command")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == ["What a job costs", "With more workers", "With workers killed"]
    assert len(re.findall(r"^\| [12] \|", text, re.MULTILINE)) == len(scale.TINY.workers)
    jobs, lost, twice, wrong, failed, killed, _, _ = re.search(
        r"^\| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) s \|$",
        text,
        re.MULTILINE,
    ).groups()
    assert (jobs, lost, twice, wrong, failed) == ("60", "0", "0", "0", "0") and int(killed) >= 0
    assert text.count("Bar: ") == len(scale.SECTIONS)
