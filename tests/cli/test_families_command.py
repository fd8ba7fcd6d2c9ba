"""`teacache families`, and the page that is made from the same data."""

from __future__ import annotations

import subprocess
import sys

import pytest
from paths import ROOT

from teacache.cli import families
from teacache.cli import main as cli
from teacache.families.registry import FAMILIES, UNCACHEABLE
from teacache.profiles.profile import load_profiles


def test_the_page_is_what_the_command_prints() -> None:
    page = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    assert page == families.markdown(), (
        "out of date: python -m teacache families --markdown > docs/families.md"
    )


def test_every_profile_of_the_table_has_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["families"]) == 0
    shown = capsys.readouterr().out
    known = {family.id for family in FAMILIES}
    for profile in load_profiles().values():
        if profile.family in known:
            assert profile.name in shown
    for entry in UNCACHEABLE:
        assert f"{entry.name}: {entry.reason}" in shown


def test_every_family_has_a_profile_and_every_class_one_home() -> None:
    with_profiles = {profile.family for profile in load_profiles().values()}
    assert {family.id for family in FAMILIES} <= with_profiles
    left = {name for entry in UNCACHEABLE for name in entry.classes}
    assert left.isdisjoint(name for family in FAMILIES for name in family.classes)


def test_every_indicator_can_be_read() -> None:
    """A profile names an indicator that its family has a reader for."""
    readers = {
        "modulated_input": "modulated_input",
        "timestep": "embed_timesteps",
        "timestep_projection": "project_timesteps",
    }
    for family in FAMILIES:
        for profile in load_profiles().values():
            if profile.family == family.id and profile.indicator in readers:
                assert vars(family)[readers[profile.indicator]] is not None, profile.name


@pytest.mark.parametrize("arguments", [["families"], ["families", "--markdown"]])
def test_it_needs_no_comfyui(arguments: list[str]) -> None:
    program = (
        "import sys; from teacache.cli.main import main; status = main(sys.argv[1:]); "
        "sys.exit(status or any(name.split('.')[0] == 'comfy' for name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "HunyuanVideo" in done.stdout
