"""File names with tokens, and prompts with alternatives."""

from __future__ import annotations

from datetime import datetime

import pytest
from editor_files import convert, example, file, node

from teacache.workflows.editor_format.texts import as_text, choose_prompt, format_date

NOW = datetime(2026, 1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("form", "date"),
    [
        ("yyyy-MM-dd", "2026-01-02"),
        ("yy-M-d", "26-1-2"),
        ("hh:mm:ss", "03:04:05"),
        ("h.m.s", "3.4.5"),
        ("yyy at noon", "yyy at noon"),
    ],
)
def test_dates(form, date):
    assert format_date(form, NOW) == date


def test_tokens_in_file_names():
    data = file(
        [
            node(1, "Patch", [0.25, "y"], properties={"Node name for S&R": "Mine"}),
            node(2, "Patch", [3.0, "a/b:c"], title="By title"),
            node(
                3,
                "SaveImage",
                [
                    "%Mine.much%_%By title.much%_%By title.kind%_%date:'y'%_%width%"
                    "_%None.much%_%Mine.no%"
                ],
            ),
            node(4, "Save", ["%Mine.much%"]),
        ]
    )
    graph = convert(data)
    prefix = graph["3"]["inputs"]["filename_prefix"]
    assert prefix == "0.25_3_a_b_c_'y'_%width%_%None.much%_%Mine.no%"
    assert graph["4"]["inputs"]["prefix"] == "%Mine.much%", "a class that saves no files"
    data["nodes"][2]["widgets_values"] = ["x-%date:yyyy%"]
    assert convert(data)["3"]["inputs"]["filename_prefix"] == f"x-{datetime.now():%Y}"


def test_values_in_texts():
    values = [None, True, 2.0, 2.5, "x", [1, "a", [2]], {"a": 1}]
    assert [as_text(value) for value in values] == [
        "",
        "true",
        "2",
        "2.5",
        "x",
        "1,a,",
        "[object Object]",
    ]


@pytest.mark.parametrize(
    ("prompt", "first", "last"),
    [
        ("a {red|blue} fox", "a red fox", "a blue fox"),
        ("{a|{b|c}} {d}", "a d", "c d"),
        (r"\{a|b\} {x\|y|z}", "{a|b} x|y", "{a|b} z"),
        ("one // two\nthree /* four\n */five", "one \nthree five", "one \nthree five"),
        ("{a|b", "a", "b"),
        ("a} b|c", "a} b|c", "a} b|c"),
        ("a \\n b\\", "a \\n b\\", "a \\n b\\"),
        ("{}", "", ""),
    ],
)
def test_dynamic_prompts(prompt, first, last):
    assert choose_prompt(prompt) == first
    assert choose_prompt(prompt, lambda choices: choices[-1]) == last


def test_braces_that_lie_very_deep_stay():
    assert "{" in choose_prompt("{" * 5000)


def test_inputs_that_are_marked_for_dynamic_prompts():
    data = example()
    data["nodes"][3]["widgets_values"][3] = "{a|b}"
    data["nodes"][5]["widgets_values"] = ["{a|b}"]
    graph = convert(data, choose=lambda choices: choices[-1])
    assert graph["4"]["inputs"]["text"] == "b" and graph["6"]["inputs"]["prefix"] == "{a|b}"
