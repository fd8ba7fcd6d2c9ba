"""Workflows served in a real ComfyUI, by the command."""

from __future__ import annotations

import json
import time
from pathlib import Path

import openai
import pytest
from image_server import files_below, opened, picture_file, served_command
from paths import ROOT

QUICKSTART = ROOT / "workflows" / "api" / "quickstart.json"
SHORT = {"num_inference_steps": 8, "seed": 1}


def told(answer):
    return answer.model_extra["teacache"]


@pytest.fixture(scope="module")
def environment(comfy_dir, tmp_path_factory):
    temporary = tmp_path_factory.mktemp("temporary")
    return {"COMFYUI_DIR": str(comfy_dir), "TMPDIR": str(temporary)}


@pytest.fixture(scope="module")
def quickstart(environment):
    with served_command("--workflow", QUICKSTART, "--max-side", 256, environment=environment) as (
        running, _,
    ):  # fmt: skip
        yield running


@pytest.fixture(scope="module")
def client(quickstart):
    return quickstart.openai()


def test_the_command_says_which_inputs_it_found(quickstart):
    assert "prompt: 4 (CLIPTextEncode, 'Prompt').text\n" in quickstart.said
    (model,) = quickstart.openai().models.list()
    assert model.id == "quickstart" and model.model_extra["teacache"]["cache"] is True


def test_pictures_follow_their_request_alone(client):
    first = client.images.generate(prompt="dog", extra_body=SHORT)
    other = client.images.generate(prompt="cat", extra_body=SHORT)
    again = client.images.generate(prompt="dog", extra_body=SHORT)
    assert first.data[0].b64_json == again.data[0].b64_json != other.data[0].b64_json
    assert told(again)["steps"] == 8 and told(again)["seed"] == 1
    assert told(again)["runs"][0]["node"] == "2"


def test_every_input_is_set(client):
    answer = client.images.generate(
        prompt="dog", n=2, size="64x96", extra_body=SHORT | {"guidance_scale": 2}
    )
    assert answer.size == "64x96" and len(answer.data) == 2
    plain = client.images.generate(prompt="dog", extra_body=SHORT)
    changed = client.images.generate(prompt="dog", extra_body=SHORT | {"negative_prompt": "cat"})
    assert plain.data[0].b64_json != changed.data[0].b64_json


def test_the_cache_of_one_request(client):
    off = client.images.generate(prompt="dog", extra_body=SHORT | {"cache_backend": "none"})
    zero = client.images.generate(
        prompt="dog", extra_body=SHORT | {"cache_config": {"rel_l1_thresh": 0}}
    )
    more = client.images.generate(
        prompt="dog", extra_body=SHORT | {"cache_config": {"rel_l1_thresh": 2}}
    )
    assert told(off)["runs"] == [] and off.data[0].b64_json == zero.data[0].b64_json
    assert told(more)["runs"][0]["threshold"] == 2 and told(more)["skipped"] > 0


def test_a_stream_has_the_steps(client):
    stream = client.images.generate(prompt="dog", stream=True, extra_body=SHORT)
    *steps, last = list(stream)
    assert [step.model_extra["step"] for step in steps] == list(range(1, 9))
    assert {step.model_extra["stage"] for step in steps} == {"Sampler"}
    assert last.type == "image_generation.completed"


def test_a_stream_has_noisy_pictures(client):
    stream = client.images.generate(prompt="dog", stream=True, partial_images=2, extra_body=SHORT)
    events = list(stream)
    partial = [event for event in events if event.type == "image_generation.partial_image"]
    assert [event.partial_image_index for event in partial] == [0, 1]
    first, second = (opened(event) for event in partial)
    assert first.size == second.size == (16, 16), "the latent's"
    assert first.tobytes() != second.tobytes()
    plain = client.images.generate(prompt="dog", extra_body=SHORT)
    assert events[-1].b64_json == plain.data[0].b64_json


def test_a_client_that_goes_away_stops_the_graph(quickstart, client):
    before = client.images.generate(prompt="dog", extra_body=SHORT)
    left = quickstart.begin(prompt="dog", num_inference_steps=200)
    quickstart.wait_for("teacache_jobs_running", 1)
    time.sleep(0.5)
    left.close()
    started = time.monotonic()
    quickstart.wait_for('teacache_jobs_total{outcome="cancelled"}', 1)
    assert time.monotonic() - started < 5, "200 steps take longer"
    after = client.images.generate(prompt="dog", extra_body=SHORT)
    assert after.data[0].b64_json == before.data[0].b64_json


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"strength": 0.5}, "strength", "/v1/images/edits only"),
        ({"size": "512x512"}, "size", "from 16 to 256"),
        ({"cache_config": {"coefficients": [1, 2]}}, "cache_config", "no widget 'coefficients'"),
        ({"cache_config": {"profile": "../../x"}}, None, "profile"),
    ],
)
def test_what_the_graph_refuses(client, fields, param, message):
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(prompt="dog", extra_body=SHORT | fields)
    assert refused.value.param == param and message in refused.value.message


def test_edits_need_a_picture_to_load(client):
    with pytest.raises(openai.BadRequestError, match="quickstart takes no picture"):
        client.images.edit(image=picture_file(), prompt="dog")


def test_an_edit_leaves_no_file_behind(environment, comfy_dir, tmp_path):
    """A graph from a picture, which this machine has not, and without an input for a size."""
    graph = json.loads(QUICKSTART.read_text())
    del graph["2"], graph["6"]
    graph["7"]["inputs"] |= {"model": ["1", 0], "latent_image": ["12", 0], "denoise": 0.5}
    graph["11"] = {"class_type": "LoadImage", "inputs": {"image": "not-on-this-machine.png"}}
    graph["12"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["11", 0], "vae": ["8", 0]}}
    file = tmp_path / "edit.json"
    file.write_text(json.dumps(graph))
    inputs, temporary = files_below(comfy_dir / "input"), Path(environment["TMPDIR"])
    options = ("--workflow", file, "--cache-backend", "tea_cache", "--served-model-name", "edit")
    config = ("--cache-config", '{"rel_l1_thresh": 0.5}', "--map", "strength=Sampler.denoise")
    before = set(temporary.glob("teacache-serve-*"))
    with served_command(*options, *config, environment=environment) as (running, process):
        assert "Apply TeaCache put in as node" in running.said
        client = running.openai()
        starts = [picture_file((128, 128)), picture_file((192, 128))]
        made = [
            client.images.edit(image=start, prompt="dog", model="edit", extra_body=SHORT)
            for start in (*starts, starts[0])
        ]
        assert [answer.size for answer in made] == ["128x128", "192x128", "128x128"]
        assert made[0].data[0].b64_json == made[2].data[0].b64_json
        assert told(made[0])["runs"][0]["threshold"] == 0.5
        weaker = client.images.edit(
            image=starts[0], prompt="dog", extra_body=SHORT | {"strength": 0.2}
        )
        assert weaker.data[0].b64_json != made[0].data[0].b64_json
        with pytest.raises(openai.BadRequestError) as refused:
            client.images.edit(image=starts[0], prompt="dog", size="64x64")
        assert refused.value.param == "size" and "--map width=NODE.INPUT" in refused.value.message
        with pytest.raises(openai.BadRequestError, match=r"not-on-this-machine\.png"):
            client.images.generate(prompt="dog")
        with pytest.raises(openai.BadRequestError, match="one picture, not 2"):
            client.images.edit(image=starts, prompt="dog")
        (folder,) = set(temporary.glob("teacache-serve-*")) - before
        assert (folder / "preview").is_dir() and files_below(folder) == set()
        process.terminate()
        assert process.wait(20) == 0 and not folder.exists()
    assert files_below(comfy_dir / "input") == inputs
