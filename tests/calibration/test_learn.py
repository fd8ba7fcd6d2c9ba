"""`preset` = `learn`: one run that is computed anyway, and what a profile of it changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from pipeline_sampling import report_of as pipeline_report
from sampling import report_of, sample
from tiny_pipelines import build, generate

from teacache.config import TeaCacheConfig
from teacache.profiles.store import ProfileStore
from teacache.report import RunReport

STEPS = 14
pytestmark = pytest.mark.usefixtures("comfy")


@pytest.fixture(scope="module")
def sd3(comfy: Any) -> Any:
    return tiny_models.build("sd3")


def run(model: Any, *, steps: int = STEPS, sampler: str = "euler", **config: Any) -> Any:
    """The latent and the report of a run with `config`."""
    from teacache.hosts.comfyui.patch import apply_teacache

    settings = TeaCacheConfig(**{"rel_l1_thresh": None, **config})
    clone, handle = apply_teacache(model, settings)
    return sample(clone, "sd3", steps=steps, sampler=sampler), report_of(handle)


def learned(folder: Path) -> str:
    """The name of the only profile in a folder."""
    (name,) = ProfileStore(folder).names()
    return name


def test_a_run_is_the_uncached_one_and_leaves_a_profile(sd3: Any, profile_folder: Path) -> None:
    latent, report = run(sd3, preset="learn")
    torch.testing.assert_close(latent, sample(sd3, "sd3", steps=STEPS), rtol=0, atol=0)
    name = learned(profile_folder)
    assert (report.computed, report.skipped) == (STEPS, 0)
    assert report.evidence == (
        f"preset learn: every step is computed; profile {name} is saved when the run ends."
    )
    assert report.warnings == [f"Profile {name} is saved: choose it in `profile` to use it."]
    kept = ProfileStore(profile_folder).load(name)
    assert kept.learned and len(kept.error_rates) == STEPS and min(kept.error_rates) > 0
    assert not kept.plans and kept.default_result is None


def test_what_was_learned_is_used_where_it_is_named_and_nowhere_else(
    sd3: Any, profile_folder: Path
) -> None:
    def pictures(**config: Any) -> list[torch.Tensor]:
        every: list[dict[str, Any]] = [{}, {"preset": "2.0x"}, {"preset": "balanced"}]
        return [run(sd3, **setting, **config)[0] for setting in every]

    before = pictures()
    run(sd3, preset="learn")
    run(sd3, preset="learn")
    name = learned(profile_folder)
    for one, other in zip(before, pictures(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    _, report = run(sd3, preset="2.0x", profile=name)
    assert f"profile {name}: forecast, 7 of {STEPS} steps computed" in report.evidence
    assert report.computed == STEPS // 2
    untouched, _ = run(sd3, profile=name)
    torch.testing.assert_close(untouched, before[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sampler": "euler_ancestral"}, "nothing is learned (it adds noise"),
        ({"steps": 6}, "Nothing was learned: steps: 6 are too few"),
    ],
)
def test_where_nothing_can_be_learned_it_is_told(
    sd3: Any, profile_folder: Path, options: dict[str, Any], told: str
) -> None:
    _, report = run(sd3, preset="learn", **options)
    assert told in " ".join([report.evidence, *report.warnings])
    assert report.skipped == 0 and not ProfileStore(profile_folder).names()


def test_an_interrupted_run_leaves_no_profile(sd3: Any, profile_folder: Path) -> None:
    import comfy.model_management as management

    with pytest.raises(management.InterruptProcessingException):
        management.interrupt_current_processing()
        run(sd3, preset="learn")
    assert not ProfileStore(profile_folder).names()


def test_a_folder_that_cannot_be_written_costs_the_profile_and_not_the_picture(
    sd3: Any, profile_folder: Path
) -> None:
    profile_folder.parent.mkdir(exist_ok=True)
    profile_folder.write_text("a file")
    latent, report = run(sd3, preset="learn")
    torch.testing.assert_close(latent, sample(sd3, "sd3", steps=STEPS), rtol=0, atol=0)
    assert report.warnings[-1].startswith("Nothing was learned: ")


def test_diffusers_learns_likewise(profile_folder: Path) -> None:
    from teacache.hosts.diffusers.enable import teacache

    pipe = build("sd3")

    def made(**config: Any) -> tuple[torch.Tensor, RunReport]:
        with teacache(pipe, None, **config) as handle:
            picture = generate(pipe, "sd3", steps=STEPS)
        return picture, pipeline_report(handle)

    plain = generate(pipe, "sd3", steps=STEPS)
    picture, report = made(preset="learn")
    torch.testing.assert_close(picture, plain, rtol=0, atol=0)
    name = learned(profile_folder)
    assert report.warnings[-1].startswith(f"Profile {name} is saved")
    assert made(preset="2.0x", profile=name)[1].computed == STEPS // 2
