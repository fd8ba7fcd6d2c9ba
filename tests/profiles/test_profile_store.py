"""The user's own profiles: kept whole, found again, and never outside their folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from calibrations import calibration, calibration_named, conditions

from teacache.digest import digest_of_patches, digest_of_weights
from teacache.errors import ConfigError
from teacache.profiles.calibrated import parse_calibration
from teacache.profiles.store import ProfileStore, default_folder, named_calibration


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(tmp_path / "profiles")


def test_what_is_saved_comes_back_the_same(store: ProfileStore) -> None:
    own = calibration_named(
        "mine", provenance={"date": "2026-01-01", "cases": ["a"]}, residual_ratios=(1.0, 0.98)
    )
    store.save(own)
    assert store.load("mine") == own and store.names() == ["mine"]


def test_the_profile_of_the_model_is_found_the_nearest_one_first(store: ProfileStore) -> None:
    assert store.find(conditions()) is None
    store.save(calibration_named("other", conditions=conditions(weights_digest="xyz")))
    assert store.find(conditions()) is None
    store.save(
        calibration_named("thirty", conditions=conditions(30), plans={2: (0, 29)}, plan_results=())
    )
    assert (found := store.find(conditions())) is not None and found.name == "thirty"
    store.save(calibration_named("fifty"))
    assert (found := store.find(conditions())) is not None and found.name == "fifty"
    assert store.find(conditions(patches_digest="lora")) is None


def test_a_name_is_not_taken_twice_and_never_from_a_shipped_profile(store: ProfileStore) -> None:
    store.save(calibration_named("mine"))
    before = store.path("mine").read_bytes()
    with pytest.raises(ConfigError, match="'mine' exists: choose another name, or overwrite it"):
        store.save(calibration_named("mine", fit_points=1))
    assert store.path("mine").read_bytes() == before
    store.save(calibration_named("mine", fit_points=1), overwrite=True)
    assert store.load("mine").fit_points == 1
    for name in ("flux1-dev", "auto"):
        with pytest.raises(ConfigError, match="a shipped profile has it"):
            store.save(calibration_named(name))


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "a\\b", "/etc/passwd", "x\0", ".hidden", "a" * 101, "a\n"],
)
def test_a_name_cannot_leave_the_folder(store: ProfileStore, name: str) -> None:
    for use in (store.path, store.load, store.delete, store.new_path):
        with pytest.raises(ConfigError, match="must be 1 to 100 letters"):
            use(name)


def test_rename_export_import_and_delete(store: ProfileStore, tmp_path: Path) -> None:
    store.save(calibration_named("mine"))
    store.rename("mine", "yours")
    assert store.names() == ["yours"] and store.load("yours").name == "yours"
    copy = tmp_path / "copy.json"
    store.export("yours", copy)
    with pytest.raises(ConfigError, match="exists: choose another file"):
        store.export("yours", copy)
    with pytest.raises(ConfigError, match="'yours' exists"):
        store.import_file(copy)
    store.import_file(copy, "third")
    assert store.load("third").name == "third" and store.names() == ["third", "yours"]
    store.delete("yours")
    assert store.names() == ["third"]
    with pytest.raises(ConfigError, match="unknown profile 'thirt'; did you mean 'third'"):
        store.delete("thirt")
    assert [path.name for path in store.folder.iterdir()] == ["third.json"]


def test_an_unusable_file_is_passed_over_and_named_when_asked_for(
    store: ProfileStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(calibration_named("good"))
    store.path("bad").write_text('{"version": 1, "kind": "calib', encoding="utf-8")
    assert [known.name for known in store.load_all()] == ["good"]
    assert "bad.json: not JSON" in caplog.text
    with pytest.raises(ConfigError, match=r"bad\.json: not JSON"):
        store.load("bad")


BROKEN: dict[str, tuple[Any, str]] = {
    "a future version": ({"version": 2}, "version must be 1, not 2"),
    "another kind": ({"kind": "workflow"}, "kind must be 'calibration'"),
    "one coefficient": ({"coefficients": [1]}, "two or more finite numbers"),
    "NaN": ({"coefficients": [1, 2, 3, 4, float("nan")]}, "two or more finite numbers"),
    "no list of plans": ({"plans": None}, "plans must be a list"),
    "rates of other steps": ({"rates": [1.0] * 49}, "rates must be 50 positive numbers"),
    "a rate of zero": ({"rates": [0.0] * 50}, "rates must be 50 positive numbers"),
    "a rate that is no number": ({"rates": [float("nan")] * 50}, "rates must"),
    "a plan that does not end": ({"plans": [[0, 4]]}, "rising steps from 0 to 49"),
    "a plan that falls": ({"plans": [[0, 9, 8, 49]]}, "rising steps from 0 to 49"),
    "a plan of texts": ({"plans": [["0", "49"]]}, "rising steps from 0 to 49"),
    "an infinite error": ({"default": {"computed": 9, "mean": 1e999, "worst": 1}}, "mean must be"),
    "no noise levels": ({"conditions": {"sigmas": []}}, "two noise levels or more"),
    "conditions of a list": ({"conditions": []}, "must be a JSON object"),
    "a curve of numbers": ({"curve": [1, 2]}, "curve: must be a JSON object"),
    "another indicator": ({"indicator": "eval(1)"}, "indicator must be one of"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_foreign_or_broken_file_is_one_clear_line(case: str) -> None:
    changed, told = BROKEN[case]
    text = json.dumps({**calibration().to_json(), **changed})
    with pytest.raises(ConfigError) as refused:
        parse_calibration(text, "x.json")
    message = str(refused.value)
    assert told in message and message.startswith("x.json: ") and "\n" not in message


def test_a_file_of_version_0_2_is_read_and_followed() -> None:
    """It has no rates, and does not say where a forecast was better."""
    data = calibration(error_rates=(1.0,) * 50).to_json()
    del data["rates"]
    for result in [*data["curve"], data["default"]]:
        del result["forecast"]
    old = parse_calibration(json.dumps(data), "x.json")
    assert old == calibration() and old.error_rates == ()


def test_one_uncached_run_is_saved_without_plans(store: ProfileStore) -> None:
    learned = calibration_named(
        "quick", plans={}, plan_results=(), default_result=None, error_rates=(0.5,) * 50
    )
    store.save(learned)
    assert store.load("quick") == learned
    assert (learned.nearest_plan(25), learned.nearest_result(25)) == (None, None)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_one_clear_line(share: float) -> None:
    text = json.dumps(calibration().to_json())
    with pytest.raises(ConfigError, match=r"^x.json: ") as refused:
        parse_calibration(text[: int(share * len(text))], "x.json")
    assert "\n" not in str(refused.value)


def test_a_profile_of_another_family_is_refused(store: ProfileStore) -> None:
    store.save(calibration_named("mine"))
    with pytest.raises(ConfigError, match="made for the family 'sd3', but this model is 'flux1'"):
        named_calibration("mine", "flux1", store)
    with pytest.raises(ConfigError, match="unknown profile 'mime'; did you mean 'mine'"):
        named_calibration("mime", "sd3", store)


def test_an_unknown_profile_names_three_at_most_and_how_to_list_them(store: ProfileStore) -> None:
    for number in range(8):
        store.save(calibration_named(f"portrait {number}"))
    for load in (store.load, store.delete, store.load_for_setting):
        with pytest.raises(ConfigError, match=r"unknown profile 'portrait'; did you mean ") as near:
            load("portrait")
        assert str(near.value).count("'portrait ") == 3
        with pytest.raises(ConfigError, match=r"unknown profile 'zzz'\. ") as far:
            load("zzz")
        assert all("'teacache profiles list'" in str(error.value) for error in (near, far))


def test_the_folder_outside_comfyui(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("TEACACHE_PROFILES", raising=False)
    assert default_folder() == tmp_path / "teacache" / "profiles"
    monkeypatch.setenv("TEACACHE_PROFILES", str(tmp_path / "named"))
    assert default_folder() == tmp_path / "named"


def test_a_digest_tells_weights_and_patches_apart() -> None:
    weights = [("a", torch.ones(3, 4)), ("b", torch.zeros(2))]
    assert digest_of_weights(weights) == digest_of_weights(
        [(n, w.to(torch.bfloat16).float()) for n, w in weights]
    )
    assert digest_of_weights(weights) != digest_of_weights([("a", torch.ones(4, 3)), weights[1]])
    assert digest_of_weights(weights) != digest_of_weights(
        [("a", torch.full((3, 4), 1.5)), weights[1]]
    )
    assert digest_of_patches({}) == ""
    lora = {"a": [(1.0, ("diff", (torch.ones(2),)), 1.0, None, None)]}
    weaker = {"a": [(0.5, ("diff", (torch.ones(2),)), 1.0, None, None)]}
    other = {"a": [(1.0, ("diff", (torch.zeros(2),)), 1.0, None, None)]}
    assert len({digest_of_patches(p) for p in (lora, weaker, other)}) == 3


def test_the_digests_that_saved_profiles_are_found_by_stay_the_same() -> None:
    weights = [("a", torch.arange(12.0).reshape(3, 4)), ("b", torch.zeros(2))]
    assert digest_of_weights(weights) == "3bc0c0d03940"
    padded = ("diff", (torch.ones(2), {"pad_weight": True}))
    patches = {"b": [(0.5, padded, 1.0, None, None)], "a": [(1.0, padded, 1.0, (0, 1, 2), None)]}
    assert digest_of_patches(patches) == "920a3b0fc311"
