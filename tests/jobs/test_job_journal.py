"""Finished jobs, remembered over the end of a process."""

from __future__ import annotations

from pathlib import Path

from teacache.jobs.journal import JobJournal

KEY = {"command": "run", "count": 3}


def test_finished_jobs_are_taken_up_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "jobs.jsonl"
    journal = JobJournal(path, KEY)
    assert not path.exists(), "nothing is written before a job is finished"
    journal.add(3, {"worker": "a"})
    journal.add(1, {"worker": "≠"})
    again = JobJournal(path, KEY)
    assert len(again) == 2 and 3 in again and 2 not in again
    again.add(2, {"worker": "c"})
    assert list(again.entries()) == [
        (1, {"worker": "≠"}),
        (2, {"worker": "c"}),
        (3, {"worker": "a"}),
    ]
    again.remove()
    assert not path.exists() and list(JobJournal(path, KEY).entries()) == []


def test_a_line_that_was_cut_off_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    journal = JobJournal(path, KEY)
    journal.add(1, {"n": 1})
    journal.add(2, {"n": 2})
    path.write_bytes(path.read_bytes()[:-5])
    again = JobJournal(path, KEY)
    assert 1 in again and 2 not in again
    again.add(2, {"n": 22})
    again.add(3, {"n": 3})
    assert list(JobJournal(path, KEY).entries()) == [(1, {"n": 1}), (2, {"n": 22}), (3, {"n": 3})]


def test_one_of_other_settings_is_begun_anew(tmp_path: Path) -> None:
    path, said = tmp_path / "jobs.jsonl", []
    JobJournal(path, KEY).add(1, {})
    other = JobJournal(path, KEY | {"count": 4}, said.append)
    assert 1 not in other and said == [f"{path} is of other jobs or settings: begun anew"]
    other.add(2, {})
    assert list(JobJournal(path, KEY | {"count": 4}, said.append).entries()) == [(2, {})]
    assert len(said) == 1
