"""What other nodes hand over: samplers, guiders and wrappers of foreign make."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import foreign
import pytest
import torch
from foreign import CallableSampler, make_guider, over_tiles, partial_euler
from hostile import (
    MODES,
    SKIP_HALF,
    failing,
    latent,
    live_objects,
    make_failure,
    sample_custom,
    skip_pattern,
    small_model,
    state_of,
)
from sampling import SKIP_ALL, SKIP_NONE, cached, report_of

pytestmark = pytest.mark.usefixtures("comfy")

SIGMAS = [1.0, 0.9, 0.78, 0.66, 0.54, 0.42, 0.3, 0.18, 0.08, 0.0]


@pytest.fixture(scope="module")
def model(comfy: Any) -> Any:
    return small_model()


def guided(model: Any, guider: Any, sampler: Any = "euler", seed: int = 1) -> torch.Tensor:
    """A run over `SIGMAS` with a guider, as SamplerCustomAdvanced makes it."""
    import comfy.sample
    import comfy.samplers

    chosen = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
    start = latent()
    noise = comfy.sample.prepare_noise(start, seed)
    with torch.inference_mode():
        return guider.sample(noise, start, chosen, torch.tensor(SIGMAS), seed=seed)


# --- samplers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [partial_euler, CallableSampler])
@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_a_sampler_function_without_a_name(
    model: Any, make: Callable[[], Any], threshold: float
) -> None:
    import comfy.samplers

    native = sample_custom(model, SIGMAS, sampler=comfy.samplers.KSAMPLER(make()))
    clone, handle = cached(model, threshold, mode="forecast")
    got = sample_custom(clone, SIGMAS, sampler=comfy.samplers.KSAMPLER(make()))
    if threshold == 0:
        assert torch.equal(got, native)
    else:
        report = report_of(handle)
        assert len(report.records) == 9 and got.isfinite().all()
        expected = "euler" if make is partial_euler else "CallableSampler of foreign"
        assert report.sampler == expected


def test_a_partial_with_options_that_add_noise_is_not_extrapolated(model: Any) -> None:
    import comfy.samplers
    from comfy.k_diffusion.sampling import sample_euler

    from teacache.hosts.comfyui.samplers import sampler_traits

    def traits(*args: Any, **options: Any) -> Any:
        function = functools.partial(sample_euler, *args, **options)
        return sampler_traits(comfy.samplers.KSAMPLER(function))

    assert traits().euler and traits(s_churn=0.0).euler
    assert traits(s_churn=0.5).adds_noise
    assert traits(s_churn=torch.tensor([0.0, 1.0])).adds_noise
    assert traits(None).foreign


def test_the_name_of_a_function_tells_nothing(model: Any) -> None:
    """A foreign function that is called sample_euler, and adds noise, is not Euler's method."""
    import comfy.samplers

    from teacache.hosts.comfyui.samplers import sampler_traits

    solver = comfy.samplers.KSAMPLER(foreign.sample_euler)
    assert sampler_traits(solver).foreign and not sampler_traits(solver).euler
    clone, handle = cached(model, 2.0, mode="forecast")
    ancestral = comfy.samplers.sampler_object("euler_ancestral")
    got = sample_custom(clone, SIGMAS, sampler=solver)
    report = report_of(handle)
    assert report.method == "forecast" and report.skipped > 0 and not report.warnings
    native = sample_custom(model, SIGMAS, sampler=ancestral)
    assert (got - native).abs().mean() < 0.4 * native.abs().mean()
    never, _ = cached(model, SKIP_NONE, mode="forecast")
    assert torch.equal(sample_custom(never, SIGMAS, sampler=solver), native)


def test_a_sampler_of_another_class_is_unknown(model: Any) -> None:
    import comfy.samplers

    from teacache.hosts.comfyui.samplers import sampler_traits

    euler = comfy.samplers.sampler_object("euler").sampler_function
    mine = foreign.sampler_of_own_class(euler)
    assert sampler_traits(mine).foreign and not sampler_traits(mine).plannable
    for name in comfy.samplers.KSampler.SAMPLERS:
        assert not sampler_traits(comfy.samplers.sampler_object(name)).foreign, name


# --- guiders -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cfg", [[3.0] * 9, None, torch.tensor([3.0, 3.0]), torch.tensor(3.0), True], ids=repr
)
@pytest.mark.parametrize("threshold", [0.0, 2.0])
def test_a_guidance_that_is_no_number(model: Any, cfg: Any, threshold: float) -> None:
    """A guider may hold a schedule, or nothing, where others have a scale."""
    native = guided(model, make_guider(model, foreign.scheduled(), cfg))
    clone, handle = cached(model, threshold, mode="forecast")
    got = guided(clone, make_guider(clone, foreign.scheduled(), cfg))
    report = report_of(handle)
    if threshold == 0:
        assert torch.equal(got, native)
    else:
        assert report.skipped > 0 and len(report.records) == 9


@pytest.mark.parametrize("known", [False, True], ids=["foreign", "taken for euler"])
@pytest.mark.parametrize("threshold", [0.0, 2.0])
def test_a_guider_that_returns_two_predictions(
    model: Any, known: bool, threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guider of a pack runs in skipped steps too, on predicted branches."""
    import comfy.samplers

    from teacache.engine.strategy import SamplerTraits
    from teacache.hosts.comfyui import patch

    if known:
        euler = SamplerTraits("euler", euler=True, one_eval_per_step=True)
        monkeypatch.setattr(patch, "sampler_traits", lambda sampler: euler)
    chosen = comfy.samplers.KSAMPLER(foreign.over_two_predictions)
    native = guided(model, make_guider(model, foreign.twofold()), chosen)
    clone, handle = cached(model, threshold, mode="forecast")
    got = guided(clone, make_guider(clone, foreign.twofold()), chosen)
    report = report_of(handle)
    if threshold == 0:
        assert torch.equal(got, native) and report.skipped == 0
    else:
        assert report.method == "forecast" and len(report.records) == 9 and report.skipped > 0
        assert (got - native).abs().mean() < 0.2 * native.abs().mean()


def test_a_guider_that_calls_its_own_predict_noise(model: Any) -> None:
    """Past the wrappers of PREDICT_NOISE, as the guider of a popular pack does."""
    for mode in MODES:
        clone, handle = cached(model, SKIP_HALF[mode], mode=mode)
        guider = make_guider(clone, foreign.direct())
        direct = guided(clone, guider)
        assert "predict_noise" not in vars(guider)
        direct_report = report_of(handle)
        assert direct_report.skipped > 0 and len(direct_report.records) == 9
        clone, handle = cached(model, SKIP_HALF[mode], mode=mode)
        assert torch.equal(direct, guided(clone, make_guider(clone)))
        assert skip_pattern(report_of(handle)) == skip_pattern(direct_report)


# --- wrappers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_wrapper_that_samples_twice(model: Any, mode: str) -> None:
    """The first of two runs is over when the second begins: nothing of it is left."""
    from comfy.patcher_extension import WrappersMP

    clone, handle = cached(model, SKIP_HALF[mode], mode=mode)
    expected = sample_custom(clone, SIGMAS)
    clone, handle = cached(model, SKIP_HALF[mode], mode=mode)
    outer = foreign.with_outer(clone, foreign.twice, WrappersMP.OUTER_SAMPLE, "twice")
    before = state_of(outer)
    got = sample_custom(outer, SIGMAS)
    assert torch.equal(got, expected)
    assert [len(report.records) for report in handle.reports] == [9, 9]
    assert live_objects() == []
    assert repr(outer.model_options) == before["options"]


@pytest.mark.parametrize("mode", MODES)
def test_a_wrapper_inside_the_cache_that_samples_twice(model: Any, mode: str) -> None:
    """Nothing of the first sampling is continued into the second, though the cache sees one run."""
    from comfy.patcher_extension import WrappersMP

    clone, handle = cached(model, SKIP_HALF[mode], mode=mode)
    expected = sample_custom(clone, SIGMAS)
    decided = skip_pattern(report_of(handle))
    inside = clone.clone()
    inside.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "twice", foreign.twice)
    assert torch.equal(sample_custom(inside, SIGMAS), expected)
    assert skip_pattern(report_of(handle)) == decided * 2 and "s" in decided


def test_at_threshold_0_nothing_of_ours_is_reached(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever our own code would raise: a switched-off node runs the graph as without it."""
    from teacache.hosts.comfyui import patch

    native = sample_custom(model, SIGMAS)

    def broken(*args: Any, **options: Any) -> Any:
        raise RuntimeError("reached")

    names = ("sampler_traits", "conditions_of", "guidance_of", "profile_store", "RunWrappers")
    clone, handle = cached(model, 0.0)
    for name in names:
        monkeypatch.setattr(patch, name, broken)
    assert torch.equal(sample_custom(clone, SIGMAS), native)
    assert report_of(handle).summary.endswith("off (threshold 0)")
    with (
        failing(model.model.diffusion_model.final_layer, 3, "error"),
        pytest.raises(type(make_failure("error"))),
    ):
        sample_custom(clone, SIGMAS)
    assert report_of(handle).outcome == "failed"


# --- what is called more than once in an evaluation ----------------------------------------------


@pytest.mark.parametrize("indicator", ["auto", "rate"])
def test_tiles_are_computed_and_the_report_says_so(model: Any, indicator: str) -> None:
    """A wrapper that calls the model once for each tile: one branch, several contents."""

    native = sample_custom(over_tiles(model), SIGMAS)
    clone, handle = cached(over_tiles(model), 0.4, mode="faithful", indicator=indicator)
    got = sample_custom(clone, SIGMAS)
    report = report_of(handle)
    assert torch.equal(got, native) and report.skipped == 0
    assert "evaluated more than once in a step" in " ".join(report.warnings)
    clone, handle = cached(over_tiles(model), SKIP_HALF["forecast"], mode="forecast")
    sample_custom(clone, SIGMAS)
    assert report_of(handle).skipped > 0


# --- the last evaluation that happens ------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "padded", [[*SIGMAS, 0.0, 0.0], [*SIGMAS[:-1], 0.08, 0.08], [0.0, *SIGMAS]], ids=str
)
def test_the_last_step_of_a_padded_schedule_is_computed(
    model: Any, mode: str, padded: list[float]
) -> None:
    """A sampler that stops where the levels stop falling: its last evaluation is computed."""
    import comfy.samplers

    clone, handle = cached(model, 0.9 if mode == "faithful" else 5.0, mode="faithful")
    chosen = comfy.samplers.KSAMPLER(foreign.until_the_levels_stop)
    sample_custom(clone, padded, sampler=chosen, start=latent() + 0.1)
    shown = skip_pattern(report_of(handle))
    assert shown[0] == shown[-1] == "c" and "s" in shown, shown


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "own steps"])
def test_the_last_step_at_a_repeated_level_is_computed(model: Any, sampler: str) -> None:
    """Steps at the last level before 0, of samplers whose evaluations are not counted."""
    chosen = foreign.SAMPLERS[sampler]() if sampler in foreign.SAMPLERS else sampler
    for repeated in (1, 2):
        clone, handle = cached(model, SKIP_ALL, mode="faithful")
        sample_custom(clone, [*SIGMAS[:-1], *SIGMAS[-2:-1] * repeated, 0.0], sampler=chosen)
        shown = skip_pattern(report_of(handle))
        assert shown[0] == shown[-1] == "c" and "s" in shown, shown


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm_2"])
def test_the_last_step_of_a_sampler_that_raises_the_level_is_computed(
    model: Any, sampler: str
) -> None:
    """Churn: noise is added before the evaluation, at a level that the schedule does not have."""
    import comfy.samplers

    for churn in (0.5, 4.0, 40.0):
        chosen = comfy.samplers.ksampler(sampler, {"s_churn": churn})
        clone, handle = cached(model, SKIP_ALL, mode="faithful")
        sample_custom(clone, SIGMAS, sampler=chosen)
        shown = skip_pattern(report_of(handle))
        assert shown[0] == shown[-1] == "c" and "s" in shown, shown


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("change", [foreign.shortened, foreign.denser])
def test_a_wrapper_inside_the_cache_that_changes_the_schedule(
    model: Any, mode: str, change: Any
) -> None:
    """The run is that of the levels which the sampler gets: its last step is computed, unless a
    forecast leaves noise."""
    from comfy.patcher_extension import WrappersMP

    clone, handle = cached(model, SKIP_ALL, mode=mode)
    levels: list[torch.Tensor] = []
    change(lambda _, sigmas: levels.append(sigmas), None, torch.tensor(SIGMAS))
    expected = sample_custom(clone, levels[0].tolist())
    decided = skip_pattern(report_of(handle))
    inside = clone.clone()
    inside.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "foreign", change)
    assert torch.equal(sample_custom(inside, SIGMAS), expected)
    report = report_of(handle)
    assert skip_pattern(report) == decided and len(handle.reports) == 2
    leaves_noise = change is foreign.shortened and mode == "forecast"
    assert decided[0] == "c" and "s" in decided, decided
    assert (decided[-1] == "c") is not leaves_noise, decided
    assert report.sigmas == levels[0].tolist() and not report.warnings


@pytest.mark.parametrize("mode", MODES)
def test_a_wrapper_inside_the_cache_that_samples_two_schedules(model: Any, mode: str) -> None:
    """One after the other, within one sampling: each has a run and a report of its own."""
    from comfy.patcher_extension import WrappersMP

    def both(executor: Any, guider: Any, sigmas: torch.Tensor, *args: Any) -> torch.Tensor:
        executor(guider, sigmas[:6], *args)
        result: torch.Tensor = executor(guider, sigmas, *args)
        return result

    clone, handle = cached(model, SKIP_ALL, mode=mode)
    expected = sample_custom(clone, SIGMAS)
    decided = skip_pattern(report_of(handle))
    clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "foreign", both)
    result = sample_custom(clone, SIGMAS)
    assert torch.equal(result, expected)
    _, first, second = handle.reports
    assert first.sigmas == second.sigmas[:6] and first.outcome == "done"
    assert skip_pattern(first)[0] == "c"
    assert (skip_pattern(first)[-1] == "c") == (mode == "faithful"), "a forecast leaves noise"
    assert skip_pattern(second) == decided and handle.report_for(result) is second


def test_a_class_that_another_pack_swapped_in_is_known_by_its_base(model: Any) -> None:
    from teacache.families.registry import find_family, find_uncacheable

    transformer = model.model.diffusion_model
    kind = type(transformer)
    family = find_family(transformer)
    swapped = type("PatchedMMDiT", (kind,), {"__module__": "some_pack.patches"})
    clone = model.clone()
    clone.add_object_patch("diffusion_model.__class__", swapped)
    native = sample_custom(clone, SIGMAS)
    assert type(transformer) is swapped or type(clone.model.diffusion_model) is swapped
    assert find_family(clone.model.diffusion_model) == family
    cached_clone, handle = cached(clone, 0.4)
    sample_custom(cached_clone, SIGMAS)
    assert report_of(handle).skipped > 0 and native.isfinite().all()
    transformer.__class__ = kind
    from comfy.ldm.wan.model import WanModel

    from teacache.families.comfyui.wan import WAN_UNCACHEABLE

    (name,) = WAN_UNCACHEABLE[0].classes
    causal = type(name.rsplit(".", 1)[1], (WanModel,), {"__module__": name.rsplit(".", 1)[0]})
    patched = type("PatchedCausal", (causal,), {"__module__": "some_pack"})
    bare = patched.__new__(patched)
    torch.nn.Module.__init__(bare)
    assert find_family(bare) is None and find_uncacheable(bare) is WAN_UNCACHEABLE[0]
