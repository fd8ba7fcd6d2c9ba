"""A wanted speed-up on a real sampler: the number of computed steps is the one that was told."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
import tiny_models
import torch
from sampling import report_of, sample

from teacache.config import TeaCacheConfig, wanted_speedup
from teacache.profiles.plans import steps_for
from teacache.report import RunReport

pytestmark = pytest.mark.usefixtures("comfy")
SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def sd3(comfy: Any) -> Any:
    return tiny_models.build("sd3")


def run(model: Any, preset: str, max_skip: int = 0, **sampling: Any) -> tuple[RunReport, Any]:
    """The report and the sampled latent of one run with a preset."""
    from teacache.hosts.comfyui.patch import apply_teacache

    config = TeaCacheConfig(rel_l1_thresh=None, preset=preset, max_skip=max_skip)
    clone, handle = apply_teacache(model, config)
    latent = sample(clone, "sd3", **sampling)
    return report_of(handle), latent


def computed_steps(report: RunReport) -> list[int]:
    """Steps with a computed evaluation, from the records."""
    return sorted({record.step for record in report.records if not record.skipped})


def told(report: RunReport) -> int:
    """The number of computed steps that the evidence names."""
    found = re.search(r"; forecast, (\d+) of \d+ steps computed", report.evidence)
    assert found is not None, report.evidence
    return int(found[1])


@pytest.mark.parametrize("preset", ["1.5x", "2.0x"])
@pytest.mark.parametrize("steps", [12, 20])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_exactly_the_wanted_number_is_computed_and_told(
    sd3: Any, sampler: str, steps: int, preset: str
) -> None:
    speedup = wanted_speedup(preset)
    assert speedup is not None
    count = steps_for(steps, speedup)
    for seed in SEEDS:
        report, latent = run(sd3, preset, sampler=sampler, steps=steps, seed=seed)
        assert torch.isfinite(latent).all()
        assert report.method == "forecast" and report.computed == count
        assert f"preset {preset}: no calibration of this model; forecast, {count} of {steps}" in (
            report.evidence
        )
        assert "in place of" not in report.evidence
        assert computed_steps(report)[:3] == [0, 1, 2]
        assert computed_steps(report)[-1] == steps - 1


def test_the_users_limit_of_skips_holds(sd3: Any) -> None:
    for preset, count in (("1.5x", 13), ("2.0x", 12)):
        for seed in SEEDS:
            report, _ = run(sd3, preset, max_skip=1, steps=20, seed=seed)
            assert told(report) == report.computed == count
            assert max(b - a for a, b in pairwise(computed_steps(report))) == 2
    assert "12 of 20 steps computed in place of 10: so many must be, within max_skip" in (
        report.evidence
    )


@pytest.mark.parametrize("preset", ["3.0x", "4.0x"])
def test_what_must_be_computed_is_told_before_the_run_and_what_was_after_it(
    sd3: Any, preset: str
) -> None:
    report, _ = run(sd3, preset, steps=12)
    count, least = steps_for(12, float(preset[:-1])), told(report)
    assert count < least <= report.computed
    assert f"in place of {count}: so many must be, to measure the error" in report.evidence
    more = [warning for warning in report.warnings if "computed steps were wanted" in warning]
    if report.computed > least:
        (said,) = more
        assert f"{count} computed steps were wanted, and {report.computed} were computed" in said


@pytest.mark.parametrize("steps", [12, 20])
def test_two_evaluations_a_step_give_one_step_more_at_most(sd3: Any, steps: int) -> None:
    for preset, count in (("1.5x", round(steps / 1.5)), ("2.0x", steps // 2)):
        for seed in SEEDS:
            report, _ = run(sd3, preset, sampler="heun", steps=steps, seed=seed)
            assert len(report.records) == 2 * steps - 1
            assert count <= len(computed_steps(report)) <= count + 1


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun"])
def test_the_same_seed_gives_the_same_picture(sd3: Any, sampler: str) -> None:
    first, picture = run(sd3, "2.0x", sampler=sampler, steps=12)
    again, same = run(sd3, "2.0x", sampler=sampler, steps=12)
    assert torch.equal(picture, same) and computed_steps(first) == computed_steps(again)
    assert not torch.equal(picture, sample(sd3, "sd3", sampler=sampler, steps=12))
