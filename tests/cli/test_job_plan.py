"""`--jobs` and `--vary`: numbers, folders and what is refused before anything runs."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from teacache.cli.job_plan import Entry, opened_plan
from teacache.errors import UserError


def entries(jobs: Path | None = None, vary: list[str] | None = None) -> list[Entry]:
    args = argparse.Namespace(jobs=None if jobs is None else str(jobs), vary=vary or [])
    with opened_plan(args) as plan:
        plan.check(lambda entry: None)
        found = list(plan)
        assert len(found) == plan.count
        assert plan.single == (jobs is None and len(found) == 1)
    return found


def test_every_combination_in_the_order_given() -> None:
    one, two, three, four = entries(vary=["Prompt.text=dog|cat", "7.seed=1|2"])
    assert one.settings == ["Prompt.text=dog", "7.seed=1"] and one.folder == "001"
    assert two.settings == ["Prompt.text=dog", "7.seed=2"] and two.number == 2
    assert three.values == {"Prompt.text": "cat", "7.seed": "1"} and four.folder == "004"
    assert entries(vary=["seed=1"]) == [Entry(1, {"seed": "1"}, "", "--vary")]
    assert entries() == [Entry(1, {}, "", "")]
    assert entries(vary=["a=|b=c"])[1].values == {"a": "b=c"}


def test_folders_of_a_job_file(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text('{"seed": 1}\n{"seed": 2, "output": "owls/first"}\n{"text": "a b"}\n')
    one, two, three = entries(path)
    assert [one.folder, two.folder, three.folder] == ["001", "owls/first", "003"]
    assert two.values == {"seed": 2} and two.settings == ["seed=2"]
    assert three.settings == ["text=a b"] and three.source == "--jobs jobs.jsonl, line 3"
    path.write_text('{"seed": 1}\n')
    assert entries(path)[0].folder == "001"
    path.write_text("".join(f'{{"seed": {n}}}\n' for n in range(1000)))
    assert entries(path)[0].folder == "0001"


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ('{"output": "a"}\n{"output": "A"}', "line 2: output: A is the folder of --jobs j.jsonl"),
        ('{"output": "002"}\n{"seed": 1}', "line 2: output: 002 is the folder of"),
        ('{"output": "../up"}', "line 1: output: must be the name of a folder below --out"),
        ('{"output": "/root"}', "must be the name of a folder"),
        ('{"output": "C:x"}', "must be the name of a folder"),
        ('{"output": "a\\\\b"}', "must be the name of a folder"),
        ('{"output": "end."}', "must be the name of a folder"),
        ('{"output": 7}', "not 7"),
        ("\n\n", "is empty"),
    ],
)
def test_unusable_files(lines: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text(lines)
    with pytest.raises(UserError) as caught:
        entries(path)
    assert line in str(caught.value)


def test_unusable_options(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--vary seed: write NAME=A\|B"):
        entries(vary=["seed"])
    path = tmp_path / "j.csv"
    path.write_text("seed\n")
    with pytest.raises(UserError, match="holds no job; one a line is needed"):
        entries(path)
    path.write_text("seed\n1\n")
    with pytest.raises(UserError, match="--vary: not together with --jobs"):
        entries(path, ["seed=1|2"])
