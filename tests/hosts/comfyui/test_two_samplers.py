"""One trajectory by two samplers, as the experts of Wan 2.2: neither picture has a history."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
import torch
from sampling import SKIP_ALL, cached, report_of, sample, sample_in_two, sample_part

from teacache.config import TeaCacheConfig
from teacache.report import Reason, RunReport

pytestmark = pytest.mark.usefixtures("comfy")
STEPS, AT = 16, 8


@pytest.fixture(scope="module")
def experts(comfy: Any) -> tuple[Any, Any]:
    return tiny_models.build("sd3", seed=1), tiny_models.build("sd3", seed=2)


def forecast(model: Any, **config: Any) -> tuple[Any, Any]:
    return cached(model, SKIP_ALL, mode="forecast", **config)


def reasons(handle: Any) -> list[Reason]:
    return [record.reason for record in report_of(handle).records]


def by_preset(models: tuple[Any, Any], preset: str) -> list[RunReport]:
    """The reports of both runs."""
    from teacache.hosts.comfyui.patch import apply_teacache

    config = TeaCacheConfig(rel_l1_thresh=None, preset=preset)
    (high, one), (low, two) = (apply_teacache(model, config) for model in models)
    sample_in_two((high, low), "sd3", STEPS, AT)
    return [report_of(one), report_of(two)]


def test_a_forecast_computes_the_last_step_only_where_the_trajectory_ends(
    experts: tuple[Any, Any],
) -> None:
    (high, first), (low, second) = map(forecast, experts)
    sample_in_two((high, low), "sd3", STEPS, AT)
    assert Reason.LAST not in reasons(first) and report_of(first).records[-1].skipped
    assert reasons(second)[-1] is Reason.LAST
    for handle in (first, second):
        assert not any(record.skipped for record in report_of(handle).records[:3])


def test_the_published_rule_and_a_whole_run_are_as_before(experts: tuple[Any, Any]) -> None:
    high, handle = cached(experts[0], SKIP_ALL, mode="faithful")
    sample_part(high, "sd3", 0, AT, STEPS)
    assert reasons(handle)[-1] is Reason.LAST
    whole, handle = forecast(experts[0])
    sample(whole, "sd3", steps=STEPS)
    assert reasons(handle)[-1] is Reason.LAST


def test_a_part_that_removes_all_noise_ends_the_trajectory(experts: tuple[Any, Any]) -> None:
    """`return_with_leftover_noise` = `disable`: the last step goes down to 0."""
    import nodes

    high, handle = forecast(experts[0])
    with torch.inference_mode():
        nodes.common_ksampler(
            high, 1, STEPS, 3.0, "euler", "simple", tiny_models.cond("sd3", 1),
            tiny_models.cond("sd3", 2), {"samples": tiny_models.latent("sd3")},
            start_step=0, last_step=AT, force_full_denoise=True,
        )  # fmt: skip
    assert reasons(handle)[-1] is Reason.LAST


def test_the_second_run_alone_gives_the_same_picture(experts: tuple[Any, Any]) -> None:
    """ComfyUI takes the first sampler's latent from its memory where its inputs are the same."""
    (high, _), (low, second) = map(forecast, experts)
    between = sample_part(high, "sd3", 0, AT, STEPS)
    together = sample_part(low, "sd3", AT, STEPS, STEPS, between)
    decided = reasons(second)
    again = sample_part(low, "sd3", AT, STEPS, STEPS, between)
    assert torch.equal(together, again) and reasons(second) == decided
    fresh, alone = forecast(experts[1])
    assert torch.equal(together, sample_part(fresh, "sd3", AT, STEPS, STEPS, between))
    assert reasons(alone) == decided
    assert torch.equal(between, sample_part(high, "sd3", 0, AT, STEPS))


def test_a_wanted_number_of_steps_is_kept_in_either_run(experts: tuple[Any, Any]) -> None:
    for report in by_preset(experts, "1.6x"):
        assert report.computed == 5
    first, second = by_preset(experts, "4.0x")
    assert first.computed < second.computed
    assert "so many must be, to measure the error." in first.evidence
    assert "so many must be, to measure the error and to end." in second.evidence


def test_no_steps_are_kept_for_an_end_where_another_run_follows(experts: tuple[Any, Any]) -> None:
    first, second = by_preset(experts, "1.3x")
    skipped = [[record.skipped for record in report.records] for report in (first, second)]
    assert sum(skipped[0]) == sum(skipped[1]) == 2
    assert skipped[0][-1] and not skipped[1][-1]
