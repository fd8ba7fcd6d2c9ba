"""Tables for a terminal."""

from __future__ import annotations

from teacache.tables import aligned

ROWS = [["name", "time", ""], ["a", "10 s", "x"], ["long name", "2 s", ""]]


def test_the_first_column_stands_left_and_the_others_right() -> None:
    assert aligned(ROWS).splitlines() == [
        "name       time",
        "a          10 s  x",
        "long name   2 s",
    ]


def test_all_columns_to_the_left_under_a_rule() -> None:
    lines = aligned(ROWS, left=3, rule=True).splitlines()
    assert lines == [
        "name       time",
        "---------  ----  -",
        "a          10 s  x",
        "long name  2 s",
    ]
