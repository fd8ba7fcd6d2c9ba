"""Beside ComfyUI's other model nodes: guidance, context windows, other caches, merges, clones."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import tiny_models
import torch
from hostile import (
    FAMILY,
    MODES,
    SKIP_HALF,
    cached_run,
    distance,
    latent,
    live_objects,
    patched,
    run,
    skip_pattern,
    small_model,
)
from node_calls import prepared
from sampling import SKIP_ALL, SKIP_NONE, cached, report_of, sample, spying, stack_blocks

from teacache.engine.decision import Decision
from teacache.engine.device import SigmaReader
from teacache.engine.run import Run

pytestmark = pytest.mark.usefixtures("comfy")
both_modes = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(scope="module")
def model(comfy: Any) -> Any:
    return small_model(depth=3)


def skip_layer(model: Any, end: float = 1.0) -> Any:
    from comfy_extras.nodes_slg import SkipLayerGuidanceDiT

    return SkipLayerGuidanceDiT.execute(model, 3.0, 0.0, end, "1", "").result[0]


def skip_layer_simple(model: Any) -> Any:
    from comfy_extras.nodes_slg import SkipLayerGuidanceDiTSimple

    return SkipLayerGuidanceDiTSimple.execute(model, 0.0, 1.0, "1", "").result[0]


def perturbed_attention(model: Any) -> Any:
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    return PerturbedAttentionGuidance.execute(model, 3.0).result[0]


def rescaled(model: Any) -> Any:
    from comfy_extras.nodes_model_advanced import RescaleCFG

    return RescaleCFG().patch(model, 0.7)[0]


# --- guidance -------------------------------------------------------------------------------------


@both_modes
@pytest.mark.parametrize("first", ["guidance", "cache"])
@pytest.mark.parametrize("guide", [skip_layer, skip_layer_simple, perturbed_attention, rescaled])
def test_guidance_before_and_behind_the_cache(
    model: Any, guide: Any, first: str, mode: str
) -> None:
    native = run(guide(model), steps=20)
    if guide is not perturbed_attention:  # which patches UNets only: its pass repeats the cond's
        assert distance(native, run(model, steps=20)) > 1e-3, "the guidance has no effect"
    for threshold in (SKIP_NONE, SKIP_HALF[mode]):
        if first == "guidance":
            clone, handle = cached(guide(model), threshold, mode=mode)
        else:
            clone, handle = cached(model, threshold, mode=mode)
            clone = guide(clone)
        with spying(model) as spy:
            got = run(clone, steps=20)
        report = report_of(handle)
        if threshold == SKIP_NONE:
            assert torch.equal(got, native)
            continue
        assert report.skipped >= 4 and distance(got, native) < 0.1
        calls = len(spy.per_call) // (report.computed if mode == "forecast" else 20)
        assert calls == (2 if guide in (skip_layer, skip_layer_simple, perturbed_attention) else 1)
        assert spy.skipped_calls == (0 if mode == "forecast" else calls * report.skipped)


def test_each_pass_has_a_memory_of_its_own(model: Any) -> None:
    """A pass keeps its memory when another one before it comes to its end."""
    from comfy.patcher_extension import WrappersMP

    guided = perturbed_attention(skip_layer(model, end=0.5))
    clone, handle = cached(guided, SKIP_ALL, max_skip=1)
    passes: list[str] = []
    tracks: list[tuple[str, int]] = []

    def watch(executor: Any, model: Any, conds: Any, x: Any, t: Any, options: Any) -> Any:
        passes.append(str(options["transformer_options"].get("patches_replace", {})))
        return executor(model, conds, x, t, options)

    def noting(decide: Any) -> Any:
        def noted(self: Run, key: Any, **keywords: Any) -> Any:
            decision = decide(self, key, **keywords)
            tracks.append((passes[-1], id(decision.state)))
            return decision

        return noted

    clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "watch", watch)
    with patched(Run, "decide", noting):
        run(clone, steps=20)
    assert len(tracks) == len(passes) and 40 < len(passes) < 60, "one pass ends within the run"
    assert len(set(passes)) == 3
    assert len(set(tracks)) == len({track for _, track in tracks}) == 3
    assert report_of(handle).skipped >= 8


def test_the_passes_of_a_step_are_computed_together(model: Any) -> None:
    """Guidance is a difference of passes: a fresh one and a stale one do not make one.

    The threshold lies between the distances of the two passes' first changes.
    """
    guided = skip_layer_simple(model)
    distances: list[float] = []

    def noting(consider: Any) -> Any:
        return lambda self, distance: (distances.append(distance), consider(self, distance))[1]

    for seed in range(8):
        distances.clear()
        with patched(Decision, "consider", noting):
            run(cached(guided, SKIP_ALL)[0], steps=12, seed=seed)
        first, second = distances[:2]
        if first < 0.999 * second:
            break
    else:
        pytest.fail("in no run is the first pass the one that changes less")
    clone, handle = cached(guided, (first + second) / 2)
    watch = Watch(model)
    clone.set_model_unet_function_wrapper(watch)
    run(clone, steps=12, seed=seed)
    watch.close()
    for record in report_of(handle).records:
        assert watch.kept(record.sigma) == {record.skipped}, record
    assert watch.again, "no evaluation was made again"


class Watch:
    """Sees at each noise level which calls of the model ran no block, the last ones counting."""

    def __init__(self, model: Any) -> None:
        self._blocks = 0
        self._calls: dict[float, list[tuple[str, bool]]] = {}
        self.again = 0
        self._hook = stack_blocks(model)[0].register_forward_pre_hook(self._ran)

    def close(self) -> None:
        self._hook.remove()

    def _ran(self, *_: Any) -> None:
        self._blocks += 1

    def __call__(self, apply_model: Any, args: dict[str, Any]) -> torch.Tensor:
        self._blocks = 0
        out = apply_model(args["input"], args["timestep"], **args["c"])
        options = args["c"]["transformer_options"]
        who = str((options["cond_or_uncond"], options.get("patches_replace", {})))
        self._calls.setdefault(round(float(args["timestep"][0]), 4), []).append(
            (who, not self._blocks)
        )
        return out

    def kept(self, sigma: float) -> set[bool]:
        """Whether the calls whose output was used were skipped."""
        calls = self._calls[round(sigma, 4)]
        self.again += len(calls) > len(dict(calls))
        return set(dict(calls).values())


# --- context windows ------------------------------------------------------------------------------


@both_modes
@pytest.mark.parametrize("schedule", ["standard_static", "standard_uniform"])
def test_context_windows_keep_to_themselves(schedule: str, mode: str) -> None:
    """A window is skipped only by what was computed for the same frames."""
    import comfy.context_windows as windows
    import comfy.patcher_extension
    from comfy_extras.nodes_context_windows import WanContextWindowsManualNode

    wan = tiny_models.build("wan21")
    chosen = {"context_length": 9, "context_overlap": 5, "context_schedule": schedule}
    inputs = WanContextWindowsManualNode.define_schema().inputs[1:]
    values = {given.id: given.default for given in inputs} | chosen
    (windowed,) = WanContextWindowsManualNode.execute(wan, **values).result
    frames = {"latent": torch.zeros(1, 16, 7, 4, 4), "steps": 10}
    native = sample(windowed, "wan21", **frames)
    assert distance(native, sample(wan, "wan21", **frames)) > 1e-4, "the windows have no effect"
    assert torch.equal(sample(cached(windowed, SKIP_NONE, mode=mode)[0], "wan21", **frames), native)

    now: list[tuple[int, ...]] = []

    def at_window(*arguments: Any) -> None:
        now.append(tuple(arguments[7].index_list))

    handler = windowed.model_options["context_handler"]
    kind = windows.IndexListCallbacks.EVALUATE_CONTEXT_WINDOWS
    comfy.patcher_extension.add_callback_with_key(kind, None, at_window, handler.callbacks)
    clone, handle = cached(windowed, SKIP_ALL, mode=mode)
    called: list[tuple[int, ...]] = []
    owners: dict[int, set[tuple[int, ...]]] = {}

    def noting(decide: Any) -> Any:
        def noted(self: Run, key: Any, **keywords: Any) -> Any:
            decision = decide(self, key, **keywords)
            owners.setdefault(id(decision.state), set()).add(now[-1] if now else ())
            return decision

        return noted

    hook = wan.model.diffusion_model.register_forward_pre_hook(lambda *_: called.append(now[-1]))
    try:
        with spying(wan) as spy, patched(Run, "decide", noting):
            got = sample(clone, "wan21", **frames)
    finally:
        hook.remove()
    assert torch.isfinite(got).all() and report_of(handle).skipped
    computed: set[tuple[int, ...]] = set()
    for window, blocks in zip(called, spy.per_call, strict=True):
        assert blocks or window in computed, "a window was skipped that was never computed"
        if blocks:
            computed.add(window)
    assert len(computed) >= 3
    if mode == "faithful":
        assert spy.skipped_calls
        assert all(len(windows) == 1 for windows in owners.values()), "windows share a memory"


# --- other caches ---------------------------------------------------------------------------------


def easy_cache(model: Any) -> Any:
    from comfy_extras.nodes_easycache import EasyCacheNode

    return EasyCacheNode.execute(model, 0.3, 0.15, 0.95, False).result[0]


def lazy_cache(model: Any) -> Any:
    from comfy_extras.nodes_easycache import LazyCacheNode

    return LazyCacheNode.execute(model, 0.3, 0.15, 0.95, False).result[0]


def of_another_pack(model: Any) -> Any:
    clone = model.clone()
    clone.model_options.setdefault("transformer_options", {})["rel_l1_thresh"] = 0.2
    return clone


OTHERS = [
    (easy_cache, "EasyCache"),
    (lazy_cache, "LazyCache"),
    (of_another_pack, "a TeaCache node of another pack"),
]


@both_modes
@pytest.mark.parametrize("first", ["other", "cache"])
@pytest.mark.parametrize(("other", "name"), OTHERS)
def test_two_caches_are_told_once_in_the_report(
    model: Any, other: Any, name: str, first: str, mode: str
) -> None:
    if first == "other":
        clone, handle = cached(other(model), SKIP_HALF[mode], mode=mode)
    else:
        clone, handle = cached(model, SKIP_HALF[mode], mode=mode)
        clone = other(clone)
    outs = [run(clone, steps=24) for _ in range(2)]
    report = report_of(handle)
    told = [warning for warning in report.warnings if "Two caches are stacked" in warning]
    assert len(told) == 1 and name in told[0]
    assert torch.isfinite(outs[0]).all() and torch.equal(*outs)
    off, handle = cached(other(model), 0.0, mode=mode)
    assert torch.equal(run(off, steps=24), run(other(model), steps=24))
    assert report_of(handle).warnings == [] and live_objects() == []


@pytest.mark.parametrize(("other", "name"), OTHERS)
def test_the_node_says_that_two_caches_are_stacked(
    pack: ModuleType, server: Any, model: Any, other: Any, name: str
) -> None:
    for given, count in ((model, 0), (other(model), 1)):
        server.sent.clear()
        prepared("ApplyTeaCache").EXECUTE_NORMALIZED(model=given)
        (ready,) = [data for event, data in server.sent if event == "teacache.ready"]
        told = [note for note in ready["notes"] if "Two caches are stacked" in note]
        assert len(told) == count and all(name in note for note in told)


def test_levels_are_read_where_another_cache_answers(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a graphics card levels are counted, not read; LazyCache makes the count wrong."""
    lazy, handle = cached(lazy_cache(model), SKIP_HALF["forecast"], mode="forecast")
    expected = run(lazy, steps=24)
    evaluated = [record.sigma for record in report_of(handle).records]
    assert len(evaluated) < 24, "LazyCache skipped nothing"
    monkeypatch.setattr(SigmaReader, "is_cheap", staticmethod(lambda timestep: False))
    assert torch.equal(run(lazy, steps=24), expected)
    assert [record.sigma for record in report_of(handle).records] == evaluated
    assert set(evaluated) <= set(report_of(handle).sigmas)


# --- one model, many users ------------------------------------------------------------------------


@both_modes
def test_two_samplers_and_clones_share_a_model(model: Any, mode: str) -> None:
    """Runs of one cached model, of its clones, and of the model itself take turns."""
    native = run(model, steps=12)
    kinds = [{"steps": 12}, {"steps": 20, "cfg": 1.0, "seed": 5}, {"steps": 9, "batch": 2}]
    alone = [cached_run(model, mode, **kind) for kind in kinds]
    shared, handle = cached(model, SKIP_HALF[mode], mode=mode)
    users = [shared, shared.clone(), shared.clone().clone()]
    for _ in range(2):
        for user, kind, (expected, report) in zip(users, kinds, alone, strict=True):
            got = run(user, **kind)
            assert torch.equal(got, expected)
            assert skip_pattern(handle.report_for(got)) == skip_pattern(report)
            assert torch.equal(run(model, steps=12), native)
    assert live_objects() == []


@both_modes
def test_a_merged_model(model: Any, mode: str) -> None:
    """A merge of a cached model is the cached merge, and another model than either."""
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    other = small_model(depth=3)
    with torch.no_grad():
        for parameter in other.model.diffusion_model.parameters():
            parameter.mul_(1.1)
    (merged,) = ModelMergeSimple().merge(model, other, 0.5)
    native = run(merged, steps=12)
    assert distance(native, run(model, steps=12)) > 1e-3
    clone, _ = cached(merged, SKIP_HALF[mode], mode=mode)
    expected = run(clone, steps=12)
    part, handle = cached(model, SKIP_HALF[mode], mode=mode)
    (behind,) = ModelMergeSimple().merge(part, other, 0.5)
    assert torch.equal(run(behind, steps=12), expected)
    assert report_of(handle).skipped and distance(expected, native) < 0.1
    assert torch.equal(run(model, latent=latent(), steps=12), run(model, steps=12))
    assert report_of(handle).family == FAMILY
