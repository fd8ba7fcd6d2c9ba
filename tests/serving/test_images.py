"""Pictures by the openai client from a real server with the demo model."""

from __future__ import annotations

import base64
import json

import openai
import pytest
from image_server import form, opened, picture_file, serving
from tiny_pipelines import TINY

from teacache.config import TeaCacheConfig
from teacache.hosts.diffusers.generation import Request, generate
from teacache.plots.pixels import to_pil
from teacache.serving.pipelines import PipelineModel

PROMPT = dict(model="demo", prompt="butterfly")
OWN = {"num_inference_steps": 20, "guidance_scale": 3.0, "seed": 7}


def told(answer):
    """What the answer tells of the cache."""
    return answer.model_extra["teacache"]


@pytest.fixture(scope="module")
def client(demo):
    return demo.openai()


@pytest.fixture(scope="module")
def cached(client):
    return client.images.generate(**PROMPT, extra_body=OWN)


def test_a_picture_is_the_pipelines_own(pipe, cached):
    request = Request(prompt="butterfly", steps=20, guidance=3.0, seed=7)
    direct = generate(pipe, request, cache=TeaCacheConfig(rel_l1_thresh=0.3))
    picture = opened(cached.data[0])
    assert picture.format == "PNG" and cached.output_format == "png"
    assert picture.tobytes() == to_pil(direct.pictures[0]).tobytes()
    assert cached.size == "128x128" == "x".join(map(str, picture.size))


def test_the_answer_says_what_the_cache_did(cached):
    cache = told(cached)
    (run,) = cache["runs"]
    assert cache["seed"] == 7 and cache["seconds"] > 0 and cache["queue_seconds"] >= 0
    assert cache["steps"] == 20 and 0 < cache["skipped"] == run["skipped"] < 20
    assert len(run["records"]) == 20 and run["threshold"] == 0.3
    assert cache["summary"] == [run["summary"]] and cache["notes"] == []


def test_the_cache_can_be_set_for_one_request(client, cached):
    off = client.images.generate(**PROMPT, extra_body=OWN | {"cache_backend": "none"})
    zero = client.images.generate(**PROMPT, extra_body=OWN | {"cache_config": {"rel_l1_thresh": 0}})
    more = client.images.generate(**PROMPT, extra_body=OWN | {"cache_config": {"rel_l1_thresh": 2}})
    assert told(off)["runs"] == [] and told(zero)["skipped"] == 0
    assert off.data[0].b64_json == zero.data[0].b64_json != cached.data[0].b64_json
    assert told(more)["skipped"] > told(cached)["skipped"]
    again = client.images.generate(**PROMPT, extra_body=OWN)
    assert again.data[0].b64_json == cached.data[0].b64_json, "a request changed the next one"


def test_every_field_has_its_effect(client):
    answer = client.images.generate(
        **PROMPT,
        n=2,
        size="64x96",
        output_format="jpeg",
        output_compression=50,
        quality="high",
        extra_body={"negative_prompt": "apple", "num_inference_steps": 4, "true_cfg_scale": 2},
    )
    pictures = [opened(entry) for entry in answer.data]
    assert [(each.format, each.size) for each in pictures] == [("JPEG", (64, 96))] * 2
    assert pictures[0].tobytes() != pictures[1].tobytes()
    cache = told(answer)
    assert cache["steps"] == 4 and cache["notes"] == ["quality is not used by this server."]

    same = {"num_inference_steps": 4, "seed": cache["seed"], "guidance_scale": 2}
    other = client.images.generate(**PROMPT, size="64x96", n=2, extra_body=same)
    repeated = client.images.generate(**PROMPT, size="64x96", n=2, extra_body=same)
    assert other.data[0].b64_json == repeated.data[0].b64_json
    without = client.images.generate(
        **PROMPT, size="64x96", n=2, extra_body=same | {"negative_prompt": "apple"}
    )
    assert without.data[0].b64_json != other.data[0].b64_json


def test_without_a_seed_pictures_differ(client):
    short = {"num_inference_steps": 2}
    one, two = (client.images.generate(**PROMPT, extra_body=short) for _ in range(2))
    assert told(one)["seed"] != told(two)["seed"]
    assert one.data[0].b64_json != two.data[0].b64_json


def test_a_picture_by_url(demo, client, cached):
    answer = client.images.generate(**PROMPT, response_format="url", extra_body=OWN)
    (entry,) = answer.data
    assert entry.b64_json is None and entry.url.startswith(f"{demo.url}/files/")
    file = demo.ask("GET", entry.url.removeprefix(demo.url))
    assert file.status == 200 and file.headers["content-type"] == "image/png"
    assert file.body == base64.b64decode(cached.data[0].b64_json)
    for name in ("unknown", "..%2F..%2Fetc%2Fpasswd", "../v1/models"):
        assert demo.ask("GET", f"/files/{name}").status == 404


def test_an_edit(client, demo):
    start = picture_file((128, 128))
    options = {"num_inference_steps": 10, "seed": 1, "strength": 0.5, "guidance_scale": 3}
    answer = client.images.edit(
        image=("photo.png", start, "image/png"), prompt="dog", model="demo", extra_body=options
    )
    picture = opened(answer.data[0])
    assert picture.size == (128, 128) and told(answer)["steps"] == 5
    weaker = client.images.edit(image=start, prompt="dog", extra_body=options | {"strength": 0.2})
    assert weaker.data[0].b64_json != answer.data[0].b64_json

    fields = {k: str(v) for k, v in options.items()} | {"prompt": "dog"}
    fields["cache_config"] = json.dumps({"rel_l1_thresh": 0})
    body, headers = form(fields, {"image[]": start})
    plain = demo.ask("POST", "/v1/images/edits", body, headers)
    assert plain.status == 200 and plain.json["teacache"]["skipped"] == 0


def test_a_large_picture_is_reduced(client):
    answer = client.images.edit(
        image=picture_file((512, 256), "JPEG"), prompt="dog", extra_body={"num_inference_steps": 2}
    )
    assert told(answer)["notes"] == ["The picture was reduced from 512x256 to 256x128."]


def test_a_stream_of_progress_and_pictures(client):
    options = OWN | {"num_inference_steps": 6, "seed": 3}
    stream = client.images.generate(
        **PROMPT, stream=True, partial_images=2, n=2, extra_body=options
    )
    events = list(stream)
    kinds = [event.type.removeprefix("image_generation.") for event in events]
    assert kinds == [
        *("progress", "progress", "partial_image"),
        *("progress", "progress", "partial_image"),
        *("progress", "progress", "completed", "completed"),
    ]
    steps = [event for event in events if event.type.endswith("progress")]
    assert [(e.model_extra["step"], e.model_extra["steps"]) for e in steps] == [
        (step, 6) for step in range(1, 7)
    ]
    partial = [event for event in events if event.type.endswith("partial_image")]
    assert [event.partial_image_index for event in partial] == [0, 1]
    assert {opened(event).size for event in partial} == {(128, 128)}

    completed = events[-2:]
    whole = client.images.generate(**PROMPT, n=2, extra_body=options)
    assert [e.b64_json for e in completed] == [entry.b64_json for entry in whole.data]
    assert completed[0].model_extra["teacache"]["steps"] == 6 and completed[0].size == "128x128"


def test_a_stream_of_an_edit(client):
    stream = client.images.edit(
        image=picture_file(), prompt="dog", stream=True, extra_body={"num_inference_steps": 2}
    )
    assert [event.type for event in stream][-1] == "image_edit.completed"


def test_a_failure_in_a_stream_is_an_error(client):
    stream = client.images.generate(**PROMPT, size="100x100", stream=True)
    with pytest.raises(openai.APIError, match="divisible by"):
        list(stream)


def test_models(client):
    (model,) = client.models.list()
    assert model.id == "demo" and model.owned_by == "teacache"
    about = client.models.retrieve("demo").model_extra["teacache"]
    assert about["pipeline"] == "DemoPipeline" and about["cache"]["rel_l1_thresh"] == 0.3
    with pytest.raises(openai.NotFoundError, match="'demo' is"):
        client.models.retrieve("Qwen/Qwen-Image")
    with pytest.raises(openai.NotFoundError) as missing:
        client.images.generate(model="gpt-image-1", prompt="dog")
    assert missing.value.code == "model_not_found" and missing.value.param == "model"


def test_metrics_and_health(demo, client):
    before = {name: demo.metric(name) for name in COUNTED}
    answer = client.images.generate(**PROMPT, n=2, extra_body=OWN)
    skipped = told(answer)["skipped"]
    added = {name: demo.metric(name) - before[name] for name in COUNTED}
    assert added == {
        'teacache_jobs_total{outcome="done"}': 1,
        "teacache_pictures_total": 2,
        'teacache_steps_total{decision="skipped"}': skipped,
        'teacache_steps_total{decision="computed"}': 20 - skipped,
        "teacache_speedup_count": 1,
        "teacache_queue_seconds_count": 1,
        "teacache_sampling_seconds_count": 1,
    }
    assert demo.metric("teacache_queue_capacity") == 4
    assert demo.metric("teacache_saved_seconds_total") > 0
    assert demo.ask("GET", "/metrics").headers["content-type"].startswith("text/plain")
    health = demo.ask("GET", "/health")
    assert health.status == 200 and health.json == {"status": "ok", "waiting": 0, "running": 0}


COUNTED = (
    'teacache_jobs_total{outcome="done"}',
    "teacache_pictures_total",
    'teacache_steps_total{decision="skipped"}',
    'teacache_steps_total{decision="computed"}',
    "teacache_speedup_count",
    "teacache_queue_seconds_count",
    "teacache_sampling_seconds_count",
)


@pytest.mark.parametrize("known", [True, False])
def test_a_pipeline_that_only_edits_names_its_route(known):
    """Also a class of somebody's own, which shows only when it is called without a picture."""
    pipe = TINY["qwen_image_edit"].build()
    if not known:
        pipe.__class__ = type("OwnEditPipeline", (type(pipe),), {})
    with serving(PipelineModel(pipe, "edit", None, steps=2)) as server:
        answer = server.generate(prompt="dog")
    assert answer.status == 400 and answer.error["param"] == "image"
    assert answer.error["message"] == "image: edit edits pictures: use /v1/images/edits"
    jobs = server.service.metrics.jobs.labels("failed")._value.get()
    assert jobs == (0 if known else 1), "a known one is refused before it waits"
