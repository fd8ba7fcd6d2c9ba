"""Bad input, by table: every setting, every widget, files cut short or foreign, names that climb.

One clear line each time; nothing sampled, nothing overwritten, nothing evaluated.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from paths import ROOT

from teacache.cli.main import main
from teacache.config import TeaCacheConfig
from teacache.environment import resolve_cache_config
from teacache.errors import ConfigError, UserError
from teacache.profiles.profile import parse_profile

QUICKSTART = ROOT / "workflows" / "api" / "quickstart.json"

NUMBERS = ("rel_l1_thresh", "start_percent", "end_percent")
COUNTS = {"max_skip": -1}
"""Whole numbers, and the first one below what is allowed."""
TEXTS = tuple(
    field.name
    for field in dataclasses.fields(TeaCacheConfig)
    if field.name not in (*NUMBERS, *COUNTS)
)
WRONG_TYPES: tuple[Any, ...] = ("much", "", [], [0.2], {}, {"a": 1}, b"0.2", object)
ENDLESS = (math.nan, math.inf, -math.inf)
BAD: list[tuple[str, Any]] = [
    *((name, value) for name in NUMBERS for value in (*ENDLESS, -1e-9, 101, True, *WRONG_TYPES)),
    *(
        (name, None)
        for name in ("start_percent", "end_percent", *COUNTS, *TEXTS)
        if name != "coefficients"
    ),
    *((name, value) for name in COUNTS for value in (*ENDLESS, 0.5, False, *WRONG_TYPES)),
    *((name, value) for name, value in COUNTS.items()),
    *((name, value) for name in TEXTS for value in (*ENDLESS, 1, True, "", [], {}, b"auto")),
    *((name, "unheard-of") for name in TEXTS if name != "profile"),
    *(
        ("coefficients", value)
        for value in ([0.2], [1, math.nan], [1, -math.inf], [1, True], ["1", 2])
    ),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=lambda item: repr(item)[:20])
def test_every_setting_refuses_what_it_cannot_be(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as refused:
        TeaCacheConfig.from_mapping({name: value})
    message = str(refused.value)
    assert message.startswith(f"{name} must be ") and "\n" not in message


@pytest.mark.parametrize("name", ["rel_l1_tresh", "Mode", "", "__class__", "preset "])
def test_an_unknown_setting_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^unknown setting .* Known: rel_l1_thresh, "):
        TeaCacheConfig.from_mapping({name: 1})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ('{"token_stride": 4}', "unknown setting 'token_stride', which was removed: leave it out."),
        ('{"indicator": "spectral"}', "indicator=spectral was removed"),
        ('{"predictor": "blend"}', "predictor=blend was removed"),
    ],
)
def test_what_was_removed_is_refused_in_one_line(given: str, told: str) -> None:
    with pytest.raises(UserError) as refused:
        resolve_cache_config({}, "tea_cache", given)
    message = str(refused.value)
    assert message.startswith(f"--cache-config: {told}") and "\n" not in message


@pytest.mark.parametrize("node", ["ApplyTeaCache", "ApplyTeaCacheDiffusers"])
def test_every_widget_refuses_what_it_cannot_be(pack: ModuleType, node: str) -> None:
    """As ComfyUI asks before anything of the graph runs."""
    import nodes

    kind = nodes.NODE_CLASS_MAPPINGS[node]
    inputs = kind.INPUT_TYPES()
    widgets = {**inputs["required"], **inputs.get("optional", {})}
    tried = [(name, value) for name, value in BAD if name in widgets]
    assert {name for name, _ in tried} == set(widgets) - {"model", "pipeline", "auto_threshold"}
    for name, value in tried:
        refused = kind.validate_inputs(**{name: value})
        assert isinstance(refused, str), (name, value)
        assert refused.startswith(f"{name} must be ") and "\n" not in refused
    assert kind.validate_inputs() is True
    unknown = kind.validate_inputs(profile="flux1-def")
    assert isinstance(unknown, str) and "did you mean 'flux1-dev'" in unknown


def shipped() -> dict[str, Any]:
    file = ROOT / "teacache" / "profiles" / "data" / "flux1-dev.json"
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return data


PROFILES: dict[str, tuple[Any, str]] = {
    "a future version": ({"version": 2}, "version must be 1, not 2"),
    "no version": ({"version": None}, "version must be 1, not None"),
    "1 coefficient": ({"coefficients": [1]}, "two or more finite numbers"),
    "NaN": ({"coefficients": [1, 2, 3, 4, math.nan]}, "two or more finite numbers"),
    "infinity": ({"coefficients": [1, 2, 3, 4, math.inf]}, "two or more finite numbers"),
    "texts": ({"coefficients": ["1"] * 5}, "two or more finite numbers"),
    "a threshold too high": ({"default_threshold": 1e9}, "default_threshold must be a number"),
    "an unknown indicator": ({"indicator": "__import__('os')"}, "indicator must be one of"),
    "a falling range": ({"x_range": [2, 1]}, "x_range must be two rising numbers"),
    "no name": ({"name": ""}, "name must be a text"),
}


@pytest.mark.parametrize("case", PROFILES)
def test_an_unusable_profile_is_one_line(case: str) -> None:
    changed, told = PROFILES[case]
    with pytest.raises(ConfigError) as refused:
        parse_profile(json.dumps({**shipped(), **changed}), "x.json")
    assert told in str(refused.value) and str(refused.value).startswith("x.json: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "1", "null", '{"version": 1', "[" * 100_000, "\0", "NaN"]
)
def test_what_is_no_profile_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^x\.json: ") as refused:
        parse_profile(text, "x.json")
    assert "\n" not in str(refused.value)


WORKFLOWS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is empty"),
    "truncated": (QUICKSTART.read_bytes()[:400], "is not complete JSON"),
    "a list": (b"[]", "a workflow is a JSON object, not a list"),
    "no nodes": (b"{}", "the workflow has no nodes"),
    "no text": (b"\xff\xfe\x00\x01", "cannot be read as text"),
    "a broken picture": (b"\x89PNG\r\n\x1a\n\x00\x00", "cannot be read as a picture"),
    "something else": (b'{"a": 1}', "'a' is no node of an API-format workflow"),
    "inputs of a list": (b'{"1": {"class_type": "KSampler", "inputs": []}}', "inputs must be an"),
    "a lost link": (
        b'{"1": {"class_type": "KSampler", "inputs": {"model": ["9", 0]}}}',
        "linked to node 9, which is not in the workflow",
    ),
    "a circle": (
        b'{"1": {"class_type": "A", "inputs": {"a": ["2", 0]}},'
        b' "2": {"class_type": "B", "inputs": {"b": ["1", 0]}}}',
        "nodes linked in a circle",
    ),
}


@pytest.mark.parametrize("command", ["run", "sweep", "calibrate"])
@pytest.mark.parametrize("case", WORKFLOWS)
def test_an_unusable_workflow_is_one_line_and_nothing_is_written(
    command: str, case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, told = WORKFLOWS[case]
    file, out = tmp_path / "graph.json", tmp_path / "out"
    file.write_bytes(content)
    assert main([command, str(file), "--out", str(out)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("teacache: ") and told in lines[0]
    assert not out.exists() and file.read_bytes() == content


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"class_type": "ApplyTeaCash"}, "ApplyTeaCash"),
        ({"rel_l1_thresh": math.nan}, "input rel_l1_thresh: must be a finite number, not nan"),
        ({"rel_l1_thresh": -1}, "rel_l1_thresh"),
        ({"max_skip": "many"}, "max_skip"),
        ({"mode": "turbo"}, "mode must be one of forecast, faithful"),
        ({"preset": "99x"}, "preset must be one of auto, faithful"),
        ({"profile": "../../etc/passwd"}, "unknown profile '../../etc/passwd'"),
    ],
    ids=str,
)
def test_a_graph_with_a_bad_value_is_one_line_and_nothing_is_sampled(
    change: dict[str, Any], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = json.loads(QUICKSTART.read_text(encoding="utf-8"))
    (node,) = [node for node in graph.values() if node["class_type"] == "ApplyTeaCache"]
    node["class_type"] = change.get("class_type", "ApplyTeaCache")
    node["inputs"] |= {name: value for name, value in change.items() if name != "class_type"}
    file, out = tmp_path / "graph.json", tmp_path / "out"
    file.write_text(json.dumps(graph), encoding="utf-8")
    assert main(["run", str(file), "--out", str(out)]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("teacache: ") and told in line
    assert not list(out.rglob("*.png"))


# --- what the code never does --------------------------------------------------------------------


def calls() -> list[tuple[str, str, ast.Call]]:
    """Every call in what is shipped: (file, what is called, the call)."""
    files = [
        ROOT / "__init__.py",
        *(ROOT / "teacache").rglob("*.py"),
        *(ROOT / "nodes").glob("*.py"),
    ]
    found = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                found.append((str(file.relative_to(ROOT)), ast.unparse(node.func), node))
    assert len(found) > 2000
    return found


def test_nothing_is_ever_unpickled_or_evaluated() -> None:
    forbidden = ("eval", "exec", "compile", "__import__", "torch.load", "yaml.load")
    for file, name, _ in calls():
        assert name not in forbidden, f"{file} calls {name}"
        assert not name.startswith(("pickle.", "marshal.", "dill.", "shelve.")), f"{file}: {name}"


def test_results_are_written_whole_or_not_at_all() -> None:
    """Files are written by `files.write_atomically`; appended to only by `journal`."""
    writers = {"teacache/files.py", "teacache/journal.py"}
    for file, name, call in calls():
        last = name.rpartition(".")[2]
        modes = [a.value for a in call.args if isinstance(a, ast.Constant)]
        writes = last in ("write_text", "write_bytes") or (
            last == "open" and any(isinstance(m, str) and set(m) & set("wax+") for m in modes)
        )
        if writes and file not in writers:
            inside = ast.unparse(call)
            assert "lambda" not in inside and inside.startswith(("file.", "path.", "Path.")), file
