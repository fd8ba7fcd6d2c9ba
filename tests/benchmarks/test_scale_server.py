"""The load of the server in its smallest form: every accepted request is answered."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("ray", reason="needs the extra: pip install 'teacache-studio[ray]'")

from benchmarks import scale_server


def test_every_accepted_request_is_answered(capsys, monkeypatch):
    monkeypatch.setenv("RAY_worker_niceness", "0")  # what runs beside it would come first
    scale_server.main(["--tiny"])
    page = capsys.readouterr().out
    sections = page.split("## ")[1:]
    assert [each.splitlines()[0] for each in sections] == [
        "The server by itself",
        "Two replicas on Ray, some of them killed",
    ]
    for each in sections:
        cells = dict(re.findall(r"^\| (.+?) \| (.+) \|$", each, re.MULTILINE))
        assert cells["accepted requests with their picture"] == "40 of 40"
        assert cells["pictures of another request"] == "0"
        statuses = {entry.split(":")[0] for entry in cells["answers by status"].split(", ")}
        assert "200" in statuses <= {"200", "429"}
    assert "| replicas killed after pictures | 1" in sections[1]
