"""The shipped profiles, and what is refused as a profile."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from teacache.config import FORCE_COMPUTE, MAX_THRESHOLD, READINGS
from teacache.errors import ConfigError
from teacache.families.registry import DIFFUSERS_FAMILIES, FAMILIES
from teacache.profiles import profile as profiles
from teacache.profiles.profile import Profile, get_profile, load_profiles, parse_profile

SHIPPED = load_profiles()
every_profile = pytest.mark.parametrize("profile", SHIPPED.values(), ids=list(SHIPPED))


@every_profile
def test_a_shipped_profile_says_where_it_comes_from(profile: Profile) -> None:
    assert profile.source
    if profile.calibrated:
        assert profile.coefficients and profile.calibrated_on and profile.thresholds
    if profile.r2 is not None:
        assert profile.r2 <= 1.0


@every_profile
def test_a_shipped_profile_has_sane_thresholds(profile: Profile) -> None:
    assert 0 < profile.default_threshold <= 2.0 < MAX_THRESHOLD
    assert all(0 < threshold.value <= 2.0 for threshold in profile.thresholds)
    assert 0.0 <= profile.start_percent < profile.end_percent <= 1.0
    changes = [step / 2000 for step in range(1, 1000)]
    assert min(map(profile.distance, changes)) < profile.default_threshold, "it never skips"


@every_profile
def test_a_shipped_profile_belongs_to_a_family_that_can_read_its_indicator(
    profile: Profile,
) -> None:
    assert profile.indicator in READINGS
    if profile.family == "generic":
        assert profile.indicator == "stack_input"
        return
    families = [f for f in FAMILIES + DIFFUSERS_FAMILIES if f.id == profile.family]
    assert families
    for family in families:
        readers = {
            "modulated_input": family.modulated_input,
            "timestep": family.embed_timesteps,
            "timestep_projection": family.project_timesteps,
            "stack_input": family,
        }
        assert readers[profile.indicator] is not None


def test_a_file_is_named_for_its_profile() -> None:
    files = (Path(profiles.__file__).parent / "data").glob("*.json")
    assert sorted(file.stem for file in files) == sorted(SHIPPED)


@pytest.mark.parametrize(
    ("name", "coefficients", "threshold"),
    [
        (
            "flux1-dev",
            (4.98651651e02, -2.83781631e02, 5.58554382e01, -3.82021401e00, 2.64230861e-01),
            0.25,
        ),
        (
            "wan21-t2v-14b",
            (-5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404),
            0.14,
        ),
        ("hidream-full", (-31360.5009, -712.425503, 49.1363285, 8.2651549, 0.108053901), 0.17),
        ("lumina2", (-874.643948, 466.059906, -75.1559762, 5.32836175, -0.0327258296), 0.38),
        ("flux2-klein-base", (-1841.022, 848.4417, -131.3554, 8.17951, 0.0), 0.17),
        ("qwen-image-mlx", (45.1443, -52.9113, 17.0784, 0.10393, 0.0), 0.30),
        ("longcat-image", (652.5980, -424.1615, 84.5526, -4.5923, 0.1694), 0.2),
        (
            "hunyuan-video-1.5-t2v-480p",
            (-29719.0924, 22283.4983, -4374.1836, 339.340251, -10.1365855, 0.129101768),
            0.15,
        ),
        (
            "hunyuan-video-1.5-t2v-720p",
            (-30890.7507, 16787.6188, -3191.78643, 260.740519, -8.19205881, 0.107913775),
            0.15,
        ),
        (
            "hunyuan-video-1.5-i2v-480p",
            (8085.28429, -2446.07178, 249.489589, -9.10697865, 0.120261379),
            0.15,
        ),
        (
            "hunyuan-video-1.5-i2v-720p",
            (3843.00014, -1392.47433, 169.167679, -7.07679232, 0.102419011),
            0.15,
        ),
        (
            "wan22-ti2v-5b",
            (157472.669, -115702.395, 31076.1669, -3831.16651, 221.608777, -4.81179567),
            0.26,
        ),
    ],
)
def test_published_numbers(name: str, coefficients: tuple[float, ...], threshold: float) -> None:
    assert SHIPPED[name].coefficients == coefficients
    assert SHIPPED[name].thresholds[0].value == threshold


def test_a_poor_published_fit_says_so() -> None:
    """MiniMax-H3's own coefficients explain a tenth of the variance: never the default."""
    profile = SHIPPED["minimax-h3"]
    assert profile.coefficients == (2283.704, -777.598, 94.084, -4.2327, 0.21738)
    assert (profile.r2, profile.x_range) == (0.095, (0.011, 0.159))
    (family,) = [family for family in FAMILIES if family.id == "minimax_h3"]
    assert family.profile_of(None) == "minimax-h3-uncalibrated"


def test_a_set_without_a_published_calibration_is_labelled_so() -> None:
    assert not SHIPPED["qwen-image-vllm-omni"].calibrated
    by_hand = [p for p in SHIPPED.values() if "set by hand" in p.source]
    assert by_hand and not any(p.calibrated for p in by_hand)
    assert all(p.coefficients == (0, 0, 0, 4, 0) for p in by_hand)


# --- the polynomial's traps ---------------------------------------------------------------------


@every_profile
@pytest.mark.parametrize("change", [0.0, 1e-9, 0.01, 0.1, 1.0, 1e6, math.inf, math.nan])
def test_a_distance_is_never_negative_nor_endless(profile: Profile, change: float) -> None:
    assert 0.0 <= profile.distance(change) <= FORCE_COMPUTE


@pytest.mark.parametrize("change", [math.inf, -math.inf, math.nan])
def test_a_change_that_is_no_number_is_computed(change: float) -> None:
    assert SHIPPED["flux1-dev"].distance(change) == FORCE_COMPUTE
    assert SHIPPED["generic"].distance(change) == FORCE_COMPUTE


def test_where_the_fit_is_positive_the_published_rule_holds() -> None:
    a4, a3, a2, a1, a0 = SHIPPED["flux1-dev"].coefficients
    x = 0.08
    by_hand = a4 * x**4 + a3 * x**3 + a2 * x**2 + a1 * x + a0
    assert SHIPPED["flux1-dev"].distance(x) == pytest.approx(by_hand, rel=1e-12)


def test_a_negative_fit_counts_by_its_size() -> None:
    """Wan 14B's fit is negative below .13: added raw it would skip for ever."""
    profile = SHIPPED["wan21-t2v-14b"]
    a0 = profile.coefficients[-1]
    assert a0 < 0
    assert profile.distance(0.0) == -a0


def test_a_change_above_the_calibrated_range_is_computed() -> None:
    profile = parse_profile(json.dumps({**GOOD, "x_range": [0.0, 0.2]}), "here")
    assert profile.distance(0.2) < FORCE_COMPUTE
    assert profile.distance(0.2001) == FORCE_COMPUTE


# --- bad files ----------------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "version": 1,
    "name": "mine",
    "family": "flux1",
    "indicator": "modulated_input",
    "coefficients": [1.0, 0.0, 0.0, 1.0, 0.0],
    "thresholds": [{"value": 0.2}],
    "default_threshold": 0.2,
    "calibrated": True,
    "source": "a test",
}


def loaded(text: str) -> Profile:
    return parse_profile(text, "mine.json")


def test_a_good_file_is_taken() -> None:
    assert loaded(json.dumps(GOOD)).coefficients == (1.0, 0.0, 0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"coefficients": [1.0]}, "two or more finite numbers"),
        ({"coefficients": [1.0, 2.0, math.nan, 4.0, 5.0]}, "two or more finite numbers"),
        ({"coefficients": [1.0, 2.0, math.inf, 4.0, 5.0]}, "two or more finite numbers"),
        ({"coefficients": [1.0, 2.0, 10**400, 4.0, 5.0]}, "two or more finite numbers"),
        ({"coefficients": ["1", 2.0, 3.0, 4.0, 5.0]}, "two or more finite numbers"),
        ({"coefficients": [True, 2.0, 3.0, 4.0, 5.0]}, "two or more finite numbers"),
        ({"coefficients": None}, "two or more finite numbers"),
        ({"version": 2}, "version must be 1, not 2"),
        ({"version": None}, "version must be 1"),
        ({"indicator": "guess"}, "indicator must be one of"),
        ({"default_threshold": math.nan}, "default_threshold must be"),
        ({"default_threshold": -1}, "default_threshold must be"),
        ({"default_threshold": "much"}, "default_threshold must be"),
        ({"x_range": [0.3]}, "x_range must be"),
        ({"x_range": [0.3, 0.1]}, "x_range must be"),
        ({"x_range": [0.0, math.nan]}, "x_range must be"),
        ({"start_percent": 0.9, "end_percent": 0.1}, "start_percent must be below end_percent"),
        ({"thresholds": [0.2]}, "thresholds must be"),
        ({"family": 7}, "family must be"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_bad_file_is_refused_with_one_clear_line(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(json.dumps({**GOOD, **change}))
    message = str(refused.value)
    assert message.startswith("mine.json: ") and told in message and "\n" not in message


@pytest.mark.parametrize("missing", ["name", "family", "indicator", "coefficients", "source"])
def test_a_file_that_lacks_something_is_refused(missing: str) -> None:
    left = {key: value for key, value in GOOD.items() if key != missing}
    with pytest.raises(ConfigError, match=f"mine.json: {missing} is missing"):
        loaded(json.dumps(left))


@pytest.mark.parametrize("text", [json.dumps(GOOD)[:40], "", "[]", "7", "\x00"])
def test_a_file_that_is_no_profile_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(text)
    assert str(refused.value).startswith("mine.json: ") and "\n" not in str(refused.value)


def test_a_profile_of_another_family_is_refused_with_both_names() -> None:
    with pytest.raises(ConfigError, match=r"'flux1-dev'.*'flux1'.*'qwen_image'"):
        get_profile("flux1-dev", "qwen_image", SHIPPED)


def test_an_unknown_profile_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'flux1-dev'"):
        get_profile("flux-dev", "flux1", SHIPPED)


@pytest.mark.parametrize("name", ["flux-dev", "wan", "zzz", ""])
def test_an_unknown_profile_names_three_at_most_and_how_to_list_them(name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        get_profile(name, "flux1", SHIPPED)
    message = str(refused.value)
    assert message.startswith(f"unknown profile {name!r}") and "\n" not in message
    assert sum(f"'{known}'" in message for known in SHIPPED) <= 3 and len(message) < 250
    assert "'teacache families'" in message and "'teacache profiles list'" in message


def test_the_beginning_of_a_profiles_name_is_near() -> None:
    with pytest.raises(ConfigError, match=r"'wan'; did you mean 'wan.*', 'wan.*' or 'wan.*'[?] "):
        get_profile("wan", "wan21", SHIPPED)
