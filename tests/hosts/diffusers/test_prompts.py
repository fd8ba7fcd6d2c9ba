"""`load_pipeline` with a cache, and `generate` of many prompts, by the public face."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers")
from PIL import Image

import teacache
from teacache import ConfigError, generate, load_pipeline
from teacache.errors import UserError

SETTINGS = dict(num_inference_steps=20, guidance_scale=3.0)


@pytest.fixture(scope="module")
def cached():
    return load_pipeline("demo", cache_backend="tea_cache", cache_config={"rel_l1_thresh": 0.3})


def test_each_prompt_has_its_pictures_and_its_report(cached):
    prompts, seeds = ["butterfly", "dog"], [7, 3]
    made = list(generate(cached, prompts, seed=seeds, num_images=2, **SETTINGS))
    assert [each.prompt for each in made] == prompts and [each.seed for each in made] == seeds
    for each in made:
        assert [picture.size for picture in each.images] == [(128, 128)] * 2
        assert each.report.threshold == 0.3 and 0 < each.report.skipped < 20
        assert each.seconds > 0 and each.notes == []
    assert made[0].report is not made[1].report

    (alone,) = generate(cached, "dog", seed=3, num_images=2, **SETTINGS)
    for one, other in zip(alone.images, made[1].images, strict=True):
        assert one.tobytes() == other.tobytes(), "a prompt depends on those before it"


def test_a_prompt_is_sampled_when_the_loop_comes_to_it(cached):
    results = generate(cached, ["butterfly", "dog"], **SETTINGS)
    before = len(cached.teacache.reports)
    next(results)
    assert len(cached.teacache.reports) == before + 1


def test_without_a_cache_it_is_the_pipelines_own_picture():
    pipe = load_pipeline("demo")
    (made,) = generate(pipe, "butterfly", seed=7, **SETTINGS)
    assert made.report is None and not hasattr(pipe, "teacache")
    assert load_pipeline("demo", cache_backend="none").__class__ is pipe.__class__

    off = load_pipeline("demo", cache_backend="tea_cache", cache_config={"rel_l1_thresh": 0})
    (same,) = generate(off, "butterfly", seed=7, **SETTINGS)
    assert same.images[0].tobytes() == made.images[0].tobytes()


def test_without_a_threshold_it_is_the_recommended_one():
    handle = load_pipeline("demo", cache_backend="tea_cache").teacache
    assert handle.config.rel_l1_thresh is None and handle.threshold > 0


def test_an_image_to_start_from(cached):
    start = Image.new("RGB", (128, 128), "red")
    options = SETTINGS | {"num_inference_steps": 10}
    (near,) = generate(cached, "dog", image=start, strength=0.3, **options)
    (far,) = generate(cached, "dog", image=start, strength=0.9, **options)
    assert near.report.steps == 3 and far.report.steps == 9
    assert near.images[0].tobytes() != far.images[0].tobytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cache_backend": "teacache"}, "cache_backend must be one of tea_cache, none"),
        ({"cache_config": {"rel_l1_thresh": 0.2}}, "cache_config: no cache is on"),
        (
            {"cache_backend": "tea_cache", "cache_config": {"rel_l1_tresh": 0.2}},
            "unknown setting 'rel_l1_tresh'; did you mean 'rel_l1_thresh'",
        ),
        ({"cache_backend": "tea_cache", "cache_config": 0.2}, "cache_config must be a mapping"),
        (
            {"cache_backend": "tea_cache", "cache_config": {"rel_l1_thresh": -1}},
            "rel_l1_thresh must be a number from 0 to 100",
        ),
    ],
)
def test_a_bad_cache_is_refused_before_anything_is_loaded(arguments, message):
    with pytest.raises(ConfigError, match=message):
        load_pipeline("no-such-folder", **arguments)


@pytest.mark.parametrize(
    ("prompts", "arguments", "message"),
    [
        (["dog", 7], {}, "prompts must be a text or several, not int"),
        (["dog", "cat"], {"seed": [1]}, "seed must be one number, or 2 of them, not 1"),
        ("dog", {"num_inference_steps": 0}, "num_inference_steps must be a whole number from 1"),
        ("dog", {"num_images": True}, "num_images must be a whole number from 1, not True"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_sampled(cached, prompts, arguments, message):
    with pytest.raises(ConfigError, match=message):
        generate(cached, prompts, **arguments)


def test_what_the_pipeline_refuses_is_one_line(cached):
    with pytest.raises(UserError, match=r"divisible by"):
        list(generate(cached, "dog", width=100, height=100, num_inference_steps=2))
    (made,) = generate(cached, "dog", **SETTINGS)
    assert made.report.outcome == "done"


def test_both_are_public():
    assert {"generate", "load_pipeline", "Generated"} <= set(teacache.__all__)
