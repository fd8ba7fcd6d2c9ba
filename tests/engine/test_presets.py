"""What a preset comes to, and on what evidence; how plans are carried over to other runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from calibrations import calibration, conditions, even_plan, shifted_sigmas
from hypothesis import given
from hypothesis import strategies as st

from teacache.config import TeaCacheConfig
from teacache.engine.budget import one_step_growth, rates_at, usual_rates
from teacache.engine.growth import random_walk_growth
from teacache.engine.presets import RunContext, resolve_settings
from teacache.engine.strategy import FAITHFUL, FORECAST, PLANNED, Budget, SamplerTraits
from teacache.errors import ConfigError
from teacache.profiles.calibrated import PlanResult
from teacache.profiles.conditions import differences, incompatibility
from teacache.profiles.plans import adapt_plan, apply_limits, steps_for
from teacache.profiles.profile import Threshold, load_profiles
from teacache.schedule import Schedule

EULER = SamplerTraits("euler", euler=True, one_eval_per_step=True)
NOISY = SamplerTraits("euler_ancestral", adds_noise=True)
UNREAD = SamplerTraits("Own", forecast=False, foreign=True)


def known(**changed: Any) -> RunContext:
    base = RunContext(load_profiles()["sd3-uncalibrated"], conditions(), EULER)
    return replace(base, **changed)


def config(preset: str = "auto", **others: Any) -> TeaCacheConfig:
    return TeaCacheConfig(**{"rel_l1_thresh": None, "preset": preset, **others})


def test_a_wanted_speedup_is_a_number_of_computed_steps() -> None:
    for preset, count in (("2.0x", 25), ("2.5x", 20), ("3x", 17), ("4.0x", 12)):
        planned = resolve_settings(config(preset), known(calibration=calibration()))
        assert planned.strategy == PLANNED and len(planned.plan or ()) == count
        assert planned.evidence.startswith(f"preset {preset}: profile mine: {count} of 50 steps")
        forecast = resolve_settings(config(preset), known())
        assert forecast.strategy == FORECAST and forecast.plan is None
        assert forecast.budget is not None and forecast.budget.count == count
        assert forecast.budget.rates == tuple(usual_rates(conditions().sigmas))
        assert f"no calibration of this model; forecast, {count} of 50" in forecast.evidence


def test_a_wanted_speedup_that_cannot_be_had_is_told() -> None:
    run = known(conditions=replace(conditions(), sigmas=shifted_sigmas(10)))

    def told(preset: str, **settings: Any) -> str:
        return resolve_settings(config(preset, **settings), run).evidence

    # the first three, the last, and one that is out of reach of the third
    must = "forecast, 5 of 10 steps computed in place of 2: so many must be, to measure the error"
    assert must in told("4.0x")
    within = "in place of 5: so many must be, within max_skip and the range"
    assert f"forecast, 7 of 10 steps computed {within}" in told("2.0x", start_percent=0.5)
    assert f"forecast, 7 of 10 steps computed {within}" in told("2.0x", max_skip=1)
    assert "forecast, 5 of 10 steps computed." in told("2.0x")


def test_in_few_steps_fast_takes_a_lower_threshold() -> None:
    def threshold(preset: str, steps: int) -> float:
        run = known(conditions=replace(conditions(), sigmas=shifted_sigmas(steps)))
        settings = resolve_settings(config(preset), run)
        assert f"forecast, threshold {settings.threshold:g}, which measures" in settings.evidence
        return settings.threshold

    assert [threshold("fast", steps) for steps in (4, 8, 9, 20)] == [0.35, 0.35, 0.5, 0.5]
    for steps in (8, 20):
        assert (threshold("quality", steps), threshold("balanced", steps)) == (0.05, 0.2)


def test_where_the_forecast_was_better_than_plans_it_is_used_with_the_models_own_errors() -> None:
    rates = tuple(float(step + 1) for step in range(50))
    better = tuple(replace(tried, forecast=True) for tried in calibration().plan_results)
    own = calibration(plan_results=better, error_rates=rates)
    chosen = resolve_settings(config("2.0x"), known(calibration=own))
    assert chosen.strategy == FORECAST and chosen.budget is not None
    assert chosen.budget.rates == pytest.approx(rates)
    assert "profile mine: forecast, 25 of 50 steps computed; error 2 % at worst" in chosen.evidence
    assert "no plan was better" in resolve_settings(config(), known(calibration=own)).evidence
    other = replace(conditions(), sigmas=shifted_sigmas(30))
    adapted = resolve_settings(config("2.0x"), known(calibration=own, conditions=other, named=True))
    assert adapted.budget is not None and adapted.budget.count == 15
    assert adapted.budget.rates == pytest.approx(rates_at(rates, conditions().sigmas, other.sigmas))


def test_one_uncached_run_gives_the_budget_its_errors_and_changes_no_default() -> None:
    rates = tuple(float(step + 1) for step in range(50))
    learned = calibration(plans={}, plan_results=(), default_result=None, error_rates=rates)
    chosen = resolve_settings(config("2.0x"), known(calibration=learned))
    assert chosen.budget is not None and chosen.budget.rates == pytest.approx(rates)
    default = resolve_settings(config(), known(calibration=learned))
    assert (default.strategy, default.budget) == (FORECAST, None)
    assert "no plan was tried" in default.evidence
    for level in ("quality", "balanced", "fast"):
        by_error = resolve_settings(config(level), known(calibration=learned))
        assert by_error == resolve_settings(config(level), known())


def test_the_error_of_a_plan_is_known_where_it_was_tried() -> None:
    own = known(calibration=calibration())
    assert resolve_settings(config("2.0x"), own).tried_error == 0.01
    assert resolve_settings(config("2.5x"), own).tried_error is None, "20 steps were not tried"
    assert resolve_settings(config("2.0x"), known()).tried_error is None
    other = replace(own, conditions=conditions(sigmas=shifted_sigmas(50, 2.0)))
    assert resolve_settings(config("2.0x"), other).tried_error is None
    limited = resolve_settings(config("2.0x", start_percent=0.5), own)
    assert limited.plan is not None and limited.tried_error is None


def test_a_level_is_the_fastest_plan_below_its_error() -> None:
    own = known(calibration=calibration())
    counts = {
        p: len(resolve_settings(config(p), own).plan or ()) for p in ("quality", "balanced", "fast")
    }
    assert counts == {"quality": 33, "balanced": 25, "fast": 17}
    poor = calibration(plan_results=(PlanResult(25, 0.5, 0.9), PlanResult(33, 0.4, 0.8)))
    assert len(resolve_settings(config("quality"), known(calibration=poor)).plan or ()) == 33
    assert (
        "error 80 % at worst with 33"
        in resolve_settings(config("quality"), known(calibration=poor)).evidence
    )


def test_a_level_without_a_calibration_is_the_forecasts_own_error_control() -> None:
    thresholds = {}
    for preset in ("quality", "balanced", "fast"):
        chosen = resolve_settings(config(preset), known())
        assert chosen.strategy == FORECAST and "no calibration" in chosen.evidence
        thresholds[preset] = chosen.threshold
    assert thresholds["quality"] < thresholds["balanced"] < thresholds["fast"]


def test_an_untouched_cache_follows_a_calibration_and_a_set_threshold_does_not() -> None:
    own = known(calibration=calibration())
    untouched = resolve_settings(config(), own)
    assert untouched.strategy == PLANNED and len(untouched.plan or ()) == 17
    assert "17 of 50 steps planned" in untouched.evidence
    assert resolve_settings(config(rel_l1_thresh=0.2), own).strategy == FORECAST
    assert resolve_settings(config(mode="faithful"), own).strategy == FAITHFUL


def test_a_plan_that_was_worse_than_the_default_is_not_followed() -> None:
    worse = calibration(default_result=PlanResult(17, 0.001, 0.002))
    chosen = resolve_settings(config(), known(calibration=worse))
    assert chosen.strategy == FORECAST and "no plan was better" in chosen.evidence


def test_the_faithful_mode_takes_fitted_coefficients_and_leaves_refused_ones() -> None:
    chosen = resolve_settings(config("faithful"), known(calibration=calibration()))
    assert chosen.profile.name == "mine" and chosen.threshold == 0.3
    bare = replace(calibration().profile, coefficients=(), calibrated=False)
    refused = calibration(fit_rejection="R² 0.10 is below 0.5", profile=bare)
    chosen = resolve_settings(config("faithful"), known(calibration=refused, named=True))
    assert chosen.profile.name == "sd3-uncalibrated"
    assert "R² 0.10 is below 0.5" in " ".join(chosen.notes)


def test_a_sampler_that_cannot_be_forecast_goes_by_published_thresholds() -> None:
    flux = load_profiles()["flux1-dev"]
    chosen = resolve_settings(config("2.0x"), known(profile=flux, sampler=UNREAD))
    assert chosen.strategy == FAITHFUL and chosen.threshold == 0.6
    assert "told to give 2x" in chosen.evidence
    bare = replace(flux, thresholds=(Threshold(0.4, None),), default_threshold=0.3)
    guessed = resolve_settings(config("3.0x"), known(profile=bare, sampler=UNREAD))
    assert guessed.threshold == pytest.approx(0.45) and "a guess" in guessed.evidence


def test_a_sampler_that_adds_noise_keeps_the_number_and_no_plan() -> None:
    """Its errors grow as a random walk, and more of the computed steps are at the start."""
    chosen = resolve_settings(config("2.0x"), known(calibration=calibration(), sampler=NOISY))
    assert chosen.plan is None and chosen.budget is not None and chosen.strategy == FORECAST
    assert "cannot be planned, it adds noise" in chosen.evidence
    plain = resolve_settings(config("2.0x"), known())
    assert plain.budget is not None and plain.budget.count == chosen.budget.count

    assert chosen.budget.growth is random_walk_growth

    def early(budget: Budget) -> float:
        axis = Schedule(conditions().sigmas).axis
        errors = [
            budget.rates[step] * one_step_growth(axis, step, budget.growth)
            for step in (3, len(budget.rates) // 2)
        ]
        return errors[0] / errors[1]

    assert early(chosen.budget) > 2 * early(plain.budget)


def test_threshold_zero_is_off_whatever_the_preset() -> None:
    own = known(calibration=calibration())
    assert resolve_settings(config("2.0x", rel_l1_thresh=0.0), own).threshold == 0.0


def test_what_a_preset_overrides_is_told() -> None:
    chosen = resolve_settings(config("2.0x", rel_l1_thresh=0.4), known())
    assert any("preset=2.0x decides" in note for note in chosen.notes)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"sigmas": shifted_sigmas(30)}, "30 steps instead of 50"),
        ({"sigmas": shifted_sigmas(50, 1.0)}, "other noise levels"),
        ({"sampler": "dpmpp_2m"}, "sampler dpmpp_2m instead of euler"),
        ({"weights_digest": "other"}, "other weights"),
        ({"patches_digest": "lora"}, "other LoRAs or patches"),
        ({"latent": (16, 64, 64)}, "latent 16 × 64 × 64"),
        ({"guidance": 7.0}, "guidance 7 instead of 3"),
    ],
)
def test_another_run_is_adapted_to_and_told(changed: dict[str, Any], told: str) -> None:
    run = replace(conditions(), **changed)
    assert told in "; ".join(differences(conditions(), run))
    chosen = resolve_settings(
        config("2.0x"), known(conditions=run, calibration=calibration(), named=True)
    )
    assert "adapted" in chosen.evidence and told in chosen.evidence
    assert len(chosen.plan or ()) == steps_for(run.steps, 2.0)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"family": "flux1"}, "made for sd3"),
        ({"sigmas": shifted_sigmas(20)}, "50 steps tell nothing about 20"),
        ({"sigmas": tuple(14 * s for s in shifted_sigmas(50))}, "range of noise levels"),
    ],
)
def test_what_is_not_sound_is_refused_and_told(changed: dict[str, Any], told: str) -> None:
    run = replace(conditions(), **changed)
    assert told in incompatibility(conditions(), run)
    chosen = resolve_settings(config("2.0x"), known(conditions=run, calibration=calibration()))
    assert "is not used" in chosen.evidence and told in chosen.evidence
    untouched = resolve_settings(config(), known(conditions=run, calibration=calibration()))
    assert untouched.strategy == FORECAST and told in " ".join(untouched.notes)


# --- plans ---------------------------------------------------------------------------------------


@given(made=st.integers(10, 60), run=st.integers(5, 90), speedup=st.floats(1.1, 5.0))
def test_an_adapted_plan_is_as_dense_over_the_noise_levels(
    made: int, run: int, speedup: float
) -> None:
    plan = even_plan(made, steps_for(made, speedup))
    count = steps_for(run, speedup)
    adapted = adapt_plan(plan, shifted_sigmas(made), shifted_sigmas(run), count)
    assert len(adapted) == count and adapted[0] == 0 and adapted[-1] == run - 1
    if run >= made:  # the share computed in the noisier half of the steps is nearly the plan's
        dense = sum(step < made / 2 for step in plan) / len(plan)
        kept = sum(step < run / 2 for step in adapted) / count
        assert kept == pytest.approx(dense, abs=2.5 / len(plan))


def test_the_same_levels_take_the_plan_as_it_is() -> None:
    plan = (0, 3, 4, 9, 19)
    assert adapt_plan(plan, shifted_sigmas(20), shifted_sigmas(20), 5) == plan


def test_a_part_of_the_noise_levels_takes_its_part_of_the_plan() -> None:
    """Image-to-image from the middle: dense where the whole run's plan is dense."""
    sigmas = shifted_sigmas(40)
    plan = (*range(0, 20, 4), *range(20, 40))
    adapted = adapt_plan(plan, sigmas, sigmas[10:], 15)
    early, late = (sum(low <= s < low + 15 for s in adapted) for low in (0, 15))
    assert adapted[0] == 0 and adapted[-1] == 29 and late > early


def test_the_users_range_and_limit_hold_in_a_plan() -> None:
    plan = (0, 10, 19)
    ranged = apply_limits(plan, 20, TeaCacheConfig(start_percent=0.2, end_percent=0.8))
    assert ranged == (*range(4), 10, *range(16, 20))
    capped = apply_limits(plan, 20, TeaCacheConfig(max_skip=3))
    assert capped == (0, 4, 8, 10, 14, 18, 19)


@pytest.mark.parametrize(
    "preset", ["", "2", "1.0x", "11x", "-2x", "fastest", "nanx", "2.0X", None, 2]
)
def test_an_unknown_preset_is_refused(preset: Any) -> None:
    with pytest.raises(ConfigError, match=r"^preset must be one of auto, .* 1.1x to 10x, not"):
        TeaCacheConfig(preset=preset)
