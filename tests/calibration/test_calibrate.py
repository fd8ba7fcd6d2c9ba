"""Calibration of a tiny real model in ComfyUI: repeatable, resumable, branches apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from sampling import cached, report_of, sample
from tiny_calibrations import STEPS, Counting, Interrupted, backend_of, calibrate, plain

from teacache.calibration.calibrator import Calibrator
from teacache.calibration.journal import Journal
from teacache.calibration.override import RunOverride
from teacache.calibration.recorder import Recorder
from teacache.calibration.shards import in_turn
from teacache.calibration.sketch import Sketcher
from teacache.config import TeaCacheConfig
from teacache.engine.strategy import Budget
from teacache.errors import ConfigError, UserError
from teacache.profiles.plans import steps_for
from teacache.report import RunReport

pytestmark = pytest.mark.usefixtures("comfy")


@pytest.fixture(scope="module")
def sd3(comfy: Any) -> Any:
    return tiny_models.build("sd3")


@pytest.fixture(scope="module")
def finished(sd3: Any) -> tuple[dict[str, Any], int]:
    """An uninterrupted calibration, and its number of runs."""
    backend = Counting(backend_of(sd3))
    return plain(calibrate(backend)), backend.runs


def test_calibrating_twice_gives_the_same(sd3: Any, finished: Any) -> None:
    assert plain(calibrate(backend_of(sd3))) == finished[0]


@pytest.mark.parametrize("after", [1, 17])
def test_interrupted_and_resumed_equals_uninterrupted(
    sd3: Any, finished: Any, after: int, tmp_path: Path
) -> None:
    expected, runs = finished
    path = tmp_path / "mine.partial.jsonl"
    with pytest.raises(Interrupted):
        calibrate(Counting(backend_of(sd3), breaks_after=after), path)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"kind": "tried", "case": 0, "pl')  # the machine went down
    again = Counting(backend_of(sd3))
    assert plain(calibrate(again, path)) == expected
    assert again.runs == runs - after


def test_the_record_of_another_calibration_is_not_taken(
    sd3: Any, finished: Any, tmp_path: Path
) -> None:
    path = tmp_path / "mine.partial.jsonl"
    with pytest.raises(Interrupted):
        calibrate(Counting(backend_of(sd3, cfg=5.0), breaks_after=4), path)
    again = Counting(backend_of(sd3))
    assert plain(calibrate(again, path)) == finished[0] and again.runs == finished[1]


def test_other_prompts_are_another_calibration(sd3: Any) -> None:
    """Prompts come as conditioning, without their words."""
    from teacache.hosts.comfyui.backend import ModelCalibrationBackend, Prompt, SamplerSettings

    def key(positive: int, negative: int = 9) -> dict[str, Any]:
        conds = tiny_models.cond("sd3", positive), tiny_models.cond("sd3", negative)
        settings = SamplerSettings(STEPS, 3.0, "euler", "simple")
        latent = {"samples": tiny_models.latent("sd3", 1)}
        prompt = Prompt(*conds, 0, "prompt 1")
        found: dict[str, Any] = ModelCalibrationBackend(sd3, latent, settings, [prompt]).key
        return found

    assert key(1) == key(1)
    assert key(1) != key(2) and key(1) != key(1, negative=8)


def test_the_default_and_the_plans_are_what_really_ran(sd3: Any, finished: Any) -> None:
    """The stored errors, measured again on plain runs of the model."""
    data, _ = finished
    backend = backend_of(sd3)
    positive, negative = tiny_models.cond("sd3", 1), tiny_models.cond("sd3", 9)
    ordinary = {"steps": STEPS, "seed": 0, "positive": positive, "negative": negative}
    uncached = sample(sd3, "sd3", **ordinary)
    with torch.inference_mode():
        for plan in (data["plans"][4], data["plans"][7]):
            tried = backend.sample(0, RunOverride(tuple(plan)))
            assert tried.computed == len(plan)
            assert not torch.equal(tried.final, uncached)
        assert torch.equal(backend.sample(0, RunOverride(tuple(range(STEPS)))).final, uncached)
    clone, handle = cached(sd3, 0.2, mode="forecast")
    sample(clone, "sd3", **ordinary)
    own = backend.sample(0, RunOverride())
    assert own.computed == report_of(handle).computed


def test_plans_hold_what_a_plan_must(finished: Any) -> None:
    data, _ = finished
    for plan in data["plans"]:
        assert plan[0] == 0 and plan[-1] == STEPS - 1
    tried = [point["computed"] for point in data["curve"]]
    assert tried == sorted(tried) and {4, 5, 6, 7, 9} <= set(tried)
    for point in data["curve"]:
        assert 0 < point["mean"] <= point["worst"]


def test_a_calibration_is_found_and_followed_by_an_untouched_cache(
    sd3: Any, profile_folder: Path
) -> None:
    from teacache.hosts.comfyui.conditions import profile_store
    from teacache.hosts.comfyui.patch import apply_teacache

    profile_store().save(calibrate(backend_of(sd3)))
    assert (profile_folder / "mine.json").is_file()

    def run(steps: int = STEPS, **settings: Any) -> Any:
        config = TeaCacheConfig(rel_l1_thresh=None, **settings)
        clone, handle = apply_teacache(sd3, config)
        sample(clone, "sd3", steps=steps)
        return report_of(handle)

    halved = run(preset="2.0x")
    assert halved.computed == STEPS // 2 and "profile mine" in halved.evidence
    other = run(steps=20, preset="2.0x")
    assert other.computed == 10 and "20 steps instead of 14" in other.evidence
    assert "profile mine" in run().evidence
    assert "profile mine" in run(profile="mine", preset="1.5x").evidence


def test_the_best_of_plans_and_forecast_is_kept_for_each_number_of_steps(
    sd3: Any, profile_folder: Path
) -> None:
    """Against the forecast as it was tried, and followed by a preset as the file says."""
    from teacache.hosts.comfyui.conditions import profile_store

    backend = backend_of(sd3)
    journal = Journal(None, backend.key)
    with torch.inference_mode():
        found = Calibrator(backend, in_turn(backend), "mine", journal, trials=1).run()
    assert len(found.error_rates) == STEPS and min(found.error_rates) > 0
    assert found.to_json()["rates"] == list(found.error_rates)
    budgets = [Budget(count, ()) for count in range(STEPS)]
    counts = [budget.count for budget in budgets if journal.outcome(0, budget) is not None]
    for count, result in zip(counts, found.plan_results, strict=True):
        assert result.computed_steps <= count
        forecast = [journal.outcome(case, Budget(count, ())) for case in range(2)]
        errors, computed = zip(*(outcome for outcome in forecast if outcome), strict=True)
        kept, tried = (result.mean_error, result.worst_error), (sum(errors) / 2, max(errors))
        if result.forecast:
            assert kept == pytest.approx(tried)
        elif max(computed) <= count:
            assert kept[0] <= tried[0] and kept[1] <= tried[1]
    profile_store().save(found)
    for speedup in (1.5, 2.0):
        report = run_preset(sd3, f"{speedup}x")
        result = found.nearest_result(steps_for(STEPS, speedup))
        assert result is not None and report.computed == steps_for(STEPS, speedup)
        assert report.cached == "prediction" and report.method == (
            "forecast" if result.forecast else "planned"
        )


def test_one_uncached_run_teaches_a_wanted_speedup_and_nothing_else(
    sd3: Any, profile_folder: Path
) -> None:
    from teacache.hosts.comfyui.conditions import profile_store

    quality, untouched = run_preset(sd3, "quality"), latent_of(sd3)
    backend = Counting(backend_of(sd3, runs=3))
    learned = calibrate(backend, quick=True)
    assert backend.runs == 1 and learned.provenance["cases"] == ["prompt 0, seed 0"]
    assert (learned.plans, learned.plan_results, learned.default_result) == ({}, (), None)
    assert len(learned.error_rates) == STEPS and min(learned.error_rates) > 0
    store = profile_store()
    store.save(learned)
    assert store.load("mine") == learned

    assert "no calibration" in run_preset(sd3, "2.0x").evidence, "it is used where it is named"
    for preset, count in (("1.5x", 9), ("2.0x", 7)):
        report = run_preset(sd3, preset, "mine")
        told = f"preset {preset}: profile mine: forecast, {count} of {STEPS} steps computed."
        assert (report.computed, report.evidence) == (count, told)
    assert run_preset(sd3, "quality", "mine").evidence == quality.evidence
    assert torch.equal(latent_of(sd3), untouched)

    as_learned = computed_steps(run_preset(sd3, "2.0x", "mine"))
    late = tuple(rate * 20.0**step for step, rate in enumerate(learned.error_rates))
    store.save(replace(learned, error_rates=late), overwrite=True)
    kept_for_later = computed_steps(run_preset(sd3, "2.0x", "mine"))
    assert len(kept_for_later) == len(as_learned) and sum(kept_for_later) > sum(as_learned)


def run_preset(model: Any, preset: str, profile: str = "auto") -> RunReport:
    """The report of a run in which only the preset, and maybe the profile, was set."""
    from teacache.hosts.comfyui.patch import apply_teacache

    config = TeaCacheConfig(rel_l1_thresh=None, preset=preset, profile=profile)
    clone, handle = apply_teacache(model, config)
    sample(clone, "sd3", steps=STEPS)
    return report_of(handle)


def latent_of(model: Any) -> torch.Tensor:
    """What an untouched cache samples."""
    from teacache.hosts.comfyui.patch import apply_teacache

    clone, _ = apply_teacache(model, TeaCacheConfig(rel_l1_thresh=None))
    return sample(clone, "sd3", steps=STEPS)


def computed_steps(report: RunReport) -> list[int]:
    return [record.step for record in report.records if not record.skipped]


def test_the_branches_of_guidance_are_never_mixed(sd3: Any) -> None:
    """Two prompts that differ grossly: each branch changes as it does when it runs alone."""
    negative = tiny_models.cond("sd3", 2)
    positive = [[negative[0][0] * 40.0, {**negative[0][1]}]]
    positive[0][1]["pooled_output"] = negative[0][1]["pooled_output"] * -30.0

    def record(cfg: float, first: Any, latent: Any = None) -> dict[int, list[tuple[float, float]]]:
        from teacache.hosts.comfyui.patch import apply_teacache

        recorder = Recorder(Sketcher())
        config = TeaCacheConfig(rel_l1_thresh=None, profile="sd3-uncalibrated")
        clone, _ = apply_teacache(sd3, config, override=RunOverride(observer=recorder))
        follow = None if latent is None else iter(latent)
        seen: list[torch.Tensor] = []

        def watch(apply_model: Any, args: dict[str, Any]) -> torch.Tensor:
            rows = len(args["cond_or_uncond"])
            x = args["input"] if follow is None else next(follow).repeat(rows, 1, 1, 1)
            seen.append(args["input"][:1].clone())
            return apply_model(x, args["timestep"], **args["c"])

        clone.set_model_unet_function_wrapper(watch)
        sample(clone, "sd3", steps=STEPS, cfg=cfg, positive=first, negative=negative)
        found: dict[int, list[tuple[float, float]]] = {}
        for point in recorder._points:
            found.setdefault(point.branch, []).append((point.indicator, point.residual))
        found[-1] = seen  # type: ignore[assignment]
        return found

    both = record(3.0, positive)
    path = both.pop(-1)
    assert len(both) == 2 and all(len(points) >= STEPS - 4 for points in both.values())
    alone = [record(1.0, prompt, path)[0] for prompt in (positive, negative)]
    for one in alone:
        nearest = min(
            max(
                abs(a - b)
                for p, q in zip(one, points, strict=True)
                for a, b in zip(p, q, strict=True)
            )
            for points in both.values()
        )
        assert nearest < 1e-3
    apart = max(abs(p[1] - q[1]) for p, q in zip(*alone, strict=True))
    assert apart > 0.01, "the branches do not differ: nothing is tested"


def test_only_one_residual_per_branch_is_held(sd3: Any) -> None:
    recorder = Recorder(Sketcher())
    with torch.inference_mode():
        backend_of(sd3).sample(0, RunOverride(observer=recorder))
    held = [branch.residual for branch in recorder._branches.values()]
    assert len(held) == 2 and all(residual is not None for residual in held)
    assert sum(d.numel() for d in recorder._derivatives.values()) <= STEPS * 16 * 64


# --- bad input -----------------------------------------------------------------------------------


def test_too_few_steps_and_no_prompts_are_refused_before_anything_runs(sd3: Any) -> None:
    for backend, told in (
        (Counting(backend_of(sd3, steps=7)), "steps: 7 are too few to calibrate on; 8 are needed"),
        (Counting(backend_of(sd3, runs=0)), "prompts: none is given"),
    ):
        with pytest.raises(UserError, match=told):
            calibrate(backend)
        assert backend.runs == 0


def test_a_run_that_gives_no_numbers_is_refused_and_nothing_is_kept(
    sd3: Any, tmp_path: Path
) -> None:
    class Broken(Counting):
        def sample(self, case: int, override: RunOverride) -> Any:
            sampled = super().sample(case, override)
            return replace(sampled, final=sampled.final * float("nan"))

    path = tmp_path / "mine.partial.jsonl"
    with pytest.raises(UserError, match=r"case 1 \(prompt 0, seed 0\): .* not numbers .NaN"):
        calibrate(Broken(backend_of(sd3)), path)
    assert path.read_text(encoding="utf-8").count("\n") == 1


def test_a_sampler_or_a_model_that_cannot_be_planned_is_refused(sd3: Any) -> None:
    with pytest.raises(ConfigError, match="sampler_name: euler_ancestral cannot be planned"):
        backend_of(sd3, sampler_name="euler_ancestral")
    with pytest.raises(ConfigError, match=r"model: .* the model is left as it is"):
        backend_of(tiny_models.left_alone())


def test_a_full_disk_leaves_what_was_there(
    sd3: Any, profile_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from teacache.hosts.comfyui.conditions import profile_store

    store = profile_store()
    own = calibrate(backend_of(sd3, runs=1), trials=0)
    store.save(own)
    before = store.path("mine").read_bytes()

    def full(self: Path, *args: Any, **kwargs: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        store.save(own, overwrite=True)
    assert store.path("mine").read_bytes() == before
    assert [path.name for path in profile_folder.iterdir()] == ["mine.json"]
