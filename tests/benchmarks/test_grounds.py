"""The grounds, what is sampled on them, and the options of the comparison."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra: pip install 'teacache-studio[diffusers]'")

from benchmarks import pareto, testbeds
from benchmarks.grounds import BY_SLUG, GROUNDS, ROUGH, Ground
from benchmarks.pareto import journal_path, parsed, run_variant, select_variants
from benchmarks.sampling import EULER
from benchmarks.testbeds import COMFYUI, DIFFUSERS, FIRST_TUNING_SEED, UNCACHED, Testbed
from benchmarks.variants import FAITHFUL, FEWER, OURS, OURS_DEFAULT, RESIDUALS, variants

MODELS = sorted({ground.model for ground in GROUNDS})


def test_slugs_tell_grounds_apart_and_leave_out_what_is_usual() -> None:
    assert len(BY_SLUG) == len(GROUNDS)
    assert Ground("demo", 20, 7.0).slug == "demo-20-g7"
    assert Ground("photos", 28, 4.5, scheduler="beta").slug == "photos-28-g4.5-beta"
    assert Ground("demo", 20, 4.0, "dpmpp_2m", "beta").slug == "demo-20-g4-dpmpp_2m-beta"
    assert BY_SLUG["demo-20-g4-beta"].scheduler == "beta"


@pytest.mark.parametrize("ground", GROUNDS, ids=lambda ground: ground.slug)
def test_grounds_are_such_that_a_cache_has_something_to_do(ground: Ground) -> None:
    assert ground.steps >= 10 and 1 < ground.guidance <= 100


def test_without_options_all_rough_grounds_of_euler_are_run() -> None:
    args = parsed([])
    assert args.ground == [g for g in GROUNDS if g.kind == ROUGH and g.sampler == "euler"]
    assert (args.pairs, args.variants, args.minutes) == (96, "main", None)
    args = parsed(["--ground", "photos-20-g4", "demo-20-g7", "photos-20-g4", "--quick"])
    assert [ground.slug for ground in args.ground] == ["photos-20-g4", "demo-20-g7"]
    assert args.pairs == pareto.QUICK_PAIRS
    assert parsed(["--quick", "--pairs", "2"]).pairs == 2
    for slug in ("digits-20-g5", "unet-30-g5-normal"):
        assert parsed(["--ground", slug, "--weights", "x"]).weights == Path("x")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ground", "nosuch"], "invalid choice: 'nosuch'"),
        (["--ground"], "expected at least one argument"),
        (["--pairs", "0"], "--pairs must be 1 to 1000, not 0"),
        (["--pairs", "1001"], "--pairs must be 1 to 1000, not 1001"),
        (["--weights", "x"], "not of demo, digits, photos"),
        (["--ground", "demo-20-g7", "--weights", "x"], "not of demo"),
        (["--model", "demo"], "unrecognized arguments: --model demo"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        parsed(options)
    message = capsys.readouterr().err
    assert refused.value.code == 2 and said in message
    if options == ["--ground", "nosuch"]:
        assert all(slug in message for slug in BY_SLUG)


def test_each_run_has_its_own_journal(tmp_path: Path) -> None:
    runs = [
        journal_path(tmp_path, ground, which, quick)
        for ground in GROUNDS
        for which in ("main", "ablation", "all")
        for quick in (False, True)
    ]
    assert len(set(runs)) == len(runs)
    assert runs[0] == tmp_path / "pareto_demo-50-g3.jsonl"
    assert runs[3] == tmp_path / "pareto_demo-50-g3_ablation_quick.jsonl"


@pytest.mark.parametrize(
    ("slug", "steps"),
    [
        ("demo-50-g3", [40, 33, 28, 25, 17]),
        ("photos-28-g4", [22, 19, 16, 14, 9]),
        ("demo-20-g7", [16, 13, 11, 10, 7]),
        ("demo-12-g4", [10, 8, 7, 6, 4]),
    ],
)
def test_numbers_of_fewer_steps_follow_from_the_grounds(slug: str, steps: list[int]) -> None:
    found = [v for v in variants(BY_SLUG[slug]) if v.method == f"{FEWER}, euler"]
    assert [v.steps for v in found] == steps
    assert [v.setting for v in found] == [str(count) for count in steps]


def test_numbers_of_fewer_steps_are_not_repeated() -> None:
    found = [v for v in variants(Ground("demo", 5, 4.0)) if v.method == f"{FEWER}, euler"]
    assert [v.steps for v in found] == [4, 3, 2]


@pytest.mark.parametrize("ground", GROUNDS, ids=lambda ground: ground.slug)
def test_what_every_ground_is_compared_by(ground: Ground) -> None:
    main = select_variants("main", False, ground)
    running = {variant.method for variant in main if variant.unsupported is None}
    assert running >= {
        UNCACHED[COMFYUI], OURS_DEFAULT, f"{OURS}: preset", f"{FEWER}, {ground.sampler}",
        "EasyCache", "LazyCache",
    }  # fmt: skip
    of_blocks = {f"{OURS}: {RESIDUALS}", FAITHFUL}
    assert running & of_blocks == (of_blocks if ground.has_blocks else set())
    quick = select_variants("main", True, ground)
    assert {v.name for v in quick} < {v.name for v in main}
    assert all(variant.pair_interval == 1 for variant in quick)


@pytest.mark.parametrize("slug", ["demo-20-g4-dpmpp_2m", "demo-20-g4-res_multistep"])
def test_other_samplers_run_in_comfyui_alone(slug: str) -> None:
    sampler = (BY_SLUG[slug].sampler, {})
    found = variants(BY_SLUG[slug])
    for variant in found:
        if variant.host == DIFFUSERS:
            assert variant.unsupported is not None and "Euler steps" in variant.unsupported
        else:
            assert (variant.sampler, variant.unsupported) == (sampler, None)
    fewer = {variant.method for variant in found if variant.method.startswith(FEWER)}
    assert fewer == {f"{FEWER}, {sampler[0]}"}


def test_what_cannot_run_on_a_model_says_why() -> None:
    for slug, pipeline in (("digits-20-g5", "Wan"), ("photos-20-g4", "FLUX")):
        left_out = {v.method: v.unsupported for v in variants(BY_SLUG[slug]) if v.unsupported}
        assert list(left_out) == ["FasterCache"]
        assert f"the {pipeline} pipeline calls the model once for each" in left_out["FasterCache"]
    assert not [v for v in variants(BY_SLUG["demo-20-g7"]) if v.unsupported]


def test_a_model_without_a_list_of_blocks_is_not_cached_by_them() -> None:
    found = variants(BY_SLUG["unet-20-g5-normal"])
    reasons = {v.method: v.unsupported for v in found if v.unsupported}
    assert "list of blocks" in reasons[FAITHFUL] and "list of blocks" in reasons["even skipping"]
    assert "for transformers" in reasons["DBCache"] and "for transformers" in reasons["SeaCache"]
    running = [v.method for v in found if v.unsupported is None]
    assert not [name for name in running if "residual" in name]
    assert {f"{OURS}: forecast, linear", f"{OURS}: forecast, dpmpp_2m"} <= set(running)


@pytest.fixture(scope="module", params=MODELS)
def testbed(comfy: Any, request: pytest.FixtureRequest) -> Testbed:
    return testbeds.load(request.param)


def test_tuning_and_judged_pairs_are_disjoint(testbed: Testbed) -> None:
    judged, tuning = testbed.test_pairs(200), testbed.tuning_pairs(200)
    assert len({*judged, *tuning}) == 400
    assert {pair.seed for pair in judged} <= set(range(FIRST_TUNING_SEED))
    assert min(pair.seed for pair in tuning) == FIRST_TUNING_SEED
    noise = [testbed.noise(pairs[0]) for pairs in (judged, tuning)]
    assert not torch.equal(*noise)


def test_captions_come_again_only_when_all_have_been(testbed: Testbed) -> None:
    count = len(testbed.test_captions)
    pairs = testbed.test_pairs(count + 1)
    assert [pair.prompt for pair in pairs[:count]] == list(testbed.test_captions)
    assert {pair.seed for pair in pairs[:count]} == {0}
    assert (pairs[-1].prompt, pairs[-1].seed) == (testbed.test_captions[0], 1)
    assert testbed.test_pairs(3) == pairs[:3]
    with pytest.raises(ValueError, match=f"{testbed.name} has {1000 * count} pairs"):
        testbed.test_pairs(1000 * count + 1)


def test_a_testbed_is_sampled_as_its_ground_says(
    testbed: Testbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ValueError, match=f"other, 20 steps, guidance 4 is no ground of {testbed.name}"
    ):
        testbed.on(Ground("other", 20, 4.0))
    ground = Ground(testbed.name, 12, 4.0, scheduler="beta")
    simple, beta = testbed.on(Ground(testbed.name, 12, 4.0)), testbed.on(ground)
    assert beta.ground == ground and testbed.ground != ground
    assert len(beta.sigmas(12)) == 13 and not torch.allclose(beta.sigmas(12), simple.sigmas(12))

    taken: dict[str, Any] = {}
    monkeypatch.setattr(pareto, "sample", lambda *args, **options: taken.update(levels=args[4]))
    by_steps = {v.steps: v for v in variants(ground) if v.method == f"{FEWER}, euler"}
    for steps, variant in by_steps.items():
        run_variant(beta, variant, testbed.test_pairs(1)[0])
        torch.testing.assert_close(taken["levels"], beta.sigmas(steps))
    monkeypatch.setattr(pareto, "version", lambda package: "1")
    head = pareto.header(
        beta, list(by_steps.values()), argparse.Namespace(quick=False, pairs=7, variants="ablation")
    )
    assert head["command"] == (
        f"python -m benchmarks.pareto --ground {ground.slug} --pairs 7 --variants ablation"
    )
    shift = "" if testbed.shift is None else f", shift {testbed.shift:g}"
    assert head["settings"]["schedule"] == f"beta{shift}"
    assert (head["settings"]["steps"], head["settings"]["sampler"]) == (12, EULER[0])
    assert [variant["steps"] for variant in head["variants"]] == [10, 8, 7, 6, 4]


def exchanged(transformer: torch.nn.Module) -> set[str]:
    """Which of its own methods a model has in place of those of its classes."""
    methods = {"forward", "cache_context"}
    return {name for module in transformer.modules() for name in methods & vars(module).keys()}


@pytest.mark.parametrize(
    "method", ["FirstBlockCache", "MagCache", "TaylorSeer, lite", "SeaCache", "DBCache"]
)
def test_rivals_skip_steps_of_flux_and_leave_nothing_behind(comfy: Any, method: str) -> None:
    if method == "DBCache":
        pytest.importorskip("cache_dit", reason="needs requirements/benchmarks.txt")
    ground = BY_SLUG["photos-20-g4"]
    testbed = testbeds.load("photos").on(ground)
    children = [name for name, _ in testbed.pipe.transformer.named_children()]
    fastest = [variant for variant in variants(ground) if variant.method == method][-1]
    pair = testbed.tuning_pairs(1)[0]
    assert run_variant(testbed, fastest, pair).computed < 15
    assert exchanged(testbed.pipe.transformer) == set()
    assert [name for name, _ in testbed.pipe.transformer.named_children()] == children
    uncached = next(v for v in variants(ground) if v.method == UNCACHED[DIFFUSERS])
    assert run_variant(testbed, uncached, pair).computed == 20
