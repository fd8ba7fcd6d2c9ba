"""Progress in words, and the estimate of the time left."""

from __future__ import annotations

import pytest

from teacache import progress
from teacache.progress import Progress, TimeLeft, clock


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (42.4, "0:42"), (59.6, "1:00"), (725, "12:05"), (3725, "1:02:05")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_stage_with_the_time_left_where_it_is_known() -> None:
    assert str(Progress(1, 4, "run 2 of 4")) == "run 2 of 4"
    assert str(Progress(1, 4, "run 2 of 4", 61)) == "run 2 of 4, 1:01 left"


def test_the_time_left_goes_by_the_pace_since_the_first_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    left = TimeLeft()
    assert left(4, 10) is None  # 4 of 10 were done before
    now[0] = 106.0
    assert left(4, 10) is None
    assert left(6, 10) == pytest.approx(12)
    assert left(10, 10) == 0
