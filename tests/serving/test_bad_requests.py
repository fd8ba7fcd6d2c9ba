"""Requests that are refused: OpenAI's error form, the field named, and what is allowed."""

from __future__ import annotations

import socket
import struct
import zlib

import pytest
from image_server import files_below, form, picture_file

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
JSON = {"Content-Type": "application/json"}
GOOD = {"prompt": "dog", "num_inference_steps": 2, "seed": 1}
FIELDS = [
    ({"prompt": ""}, "prompt", "at least 1 character"),
    ({"prompt": None}, "prompt", "must be a valid string, not None"),
    ({"prompt": ["dog"]}, "prompt", "must be a valid string"),
    ({"prompt": "x" * 32_001}, "prompt", "at most 32000 characters"),
    ({"negative_prompt": 7}, "negative_prompt", "must be a valid string, not 7"),
    ({"n": 0}, "n", "must be greater than or equal to 1, not 0"),
    ({"n": 4}, "n", "must be a whole number from 1 to 3, not 4"),
    ({"n": 1.5}, "n", "must be a valid integer"),
    ({"n": True}, "n", "must be a valid integer"),
    ({"n": "2"}, "n", "must be a valid integer"),
    ({"size": "large"}, "size", "must be WIDTHxHEIGHT such as 512x512, or auto"),
    ({"size": "512x512"}, "size", "each side is from 16 to 256 pixels, not '512x512'"),
    ({"size": "8x64"}, "size", "each side is from 16 to 256"),
    ({"size": "-64x64"}, "size", "must be WIDTHxHEIGHT"),
    ({"size": "99999999x16"}, "size", "must be WIDTHxHEIGHT"),
    ({"size": "100x100"}, None, "divisible by"),
    ({"num_inference_steps": 0}, "num_inference_steps", "greater than or equal to 1"),
    ({"num_inference_steps": 41}, "num_inference_steps", "must be a whole number from 1 to 40"),
    ({"num_inference_steps": 10**400}, "num_inference_steps", "must be"),
    ({"guidance_scale": -1}, "guidance_scale", "greater than or equal to 0"),
    ({"guidance_scale": "strong"}, "guidance_scale", "must be a valid number"),
    ({"guidance_scale": 3, "true_cfg_scale": 4}, "true_cfg_scale", "the same as guidance_scale"),
    ({"seed": -1}, "seed", "greater than or equal to 0"),
    ({"seed": 2**64}, "seed", "less than or equal to 18446744073709551615"),
    ({"response_format": "png"}, "response_format", "must be 'b64_json' or 'url', not 'png'"),
    ({"output_format": "gif"}, "output_format", "must be 'png', 'jpeg' or 'webp'"),
    ({"output_compression": 101}, "output_compression", "less than or equal to 100"),
    ({"partial_images": 4, "stream": True}, "partial_images", "less than or equal to 3"),
    ({"partial_images": 1}, "partial_images", "stream must be true"),
    ({"stream": "yes"}, "stream", "must be a valid boolean"),
    ({"strength": 0.5}, "strength", "/v1/images/edits only"),
    ({"cache_backend": "teacache"}, "cache_backend", "must be 'tea_cache' or 'none'"),
    ({"cache_config": "0.2"}, "cache_config", "must be"),
    ({"cache_config": {"rel_l1_tresh": 1}}, "cache_config", "did you mean 'rel_l1_thresh'"),
    ({"cache_config": {"rel_l1_thresh": -1}}, "cache_config", "a number from 0 to 100, not -1"),
    ({"cache_config": {"rel_l1_thresh": [1]}}, "cache_config", "a number from 0 to 100"),
    ({"cache_config": {"profile": "../../etc/passwd"}}, "cache_config", "unknown profile"),
    ({"cache_config": {"profile": "wan21-14b-t2v"}}, "cache_config", "profile"),
    ({"cache_config": {"preset": "learn"}}, "cache_config", "not in a request"),
    ({"cache_config": {}, "cache_backend": "none"}, "cache_config", "must be tea_cache for it"),
    ({"num_steps": 4}, "num_steps", "did you mean 'num_inference_steps'"),
    ({"image": "file:///etc/passwd"}, "image", "unknown field 'image'"),
]


@pytest.mark.parametrize(("fields", "name", "message"), FIELDS, ids=lambda item: repr(item)[:40])
def test_a_field_is_named_with_what_is_allowed(demo, fields, name, message):
    answer = demo.generate(**GOOD | fields)
    assert answer.status == 400
    assert answer.error["param"] == name and message in answer.error["message"]
    assert answer.error["type"] == "invalid_request_error"
    assert len(answer.error["message"]) < 700


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"prompt": "dog"',
        b"[]",
        b'"dog"',
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"prompt": "dog", "cache_config": ' + b'{"a":' * 50_000,
        b'{"prompt": "dog", "guidance_scale": NaN}',
        b'{"prompt": "dog", "guidance_scale": Infinity}',
        b'{"prompt": "dog", "cache_config": {"rel_l1_thresh": NaN}}',
        b'{"n": 1}',
    ],
    ids=lambda body: repr(body[:40]),
)
def test_a_body_that_is_no_object_of_fields(demo, body):
    answer = demo.ask("POST", GENERATIONS, body, JSON)
    assert answer.status == 400 and answer.error["message"]


def test_routes_and_media_types(demo):
    text = {"Content-Type": "text/plain"}
    assert demo.ask("POST", GENERATIONS, b"{}", text).error["message"].startswith("Content-Type")
    assert demo.ask("POST", GENERATIONS, b"{}", text).status == 415
    assert demo.ask("POST", EDITS, b"{}", JSON).status == 415
    assert demo.ask("GET", "/v1/images/variations").status == 404
    assert demo.ask("GET", "/v1/images/variations").error["type"] == "invalid_request_error"
    assert demo.ask("GET", GENERATIONS).status == 405
    cross = JSON | {"Sec-Fetch-Site": "cross-site"}
    assert demo.ask("POST", GENERATIONS, b'{"prompt": "dog"}', cross).status == 403


def test_a_body_that_is_too_large(demo):
    answer = demo.generate(prompt="x" * 1_000_001)
    assert answer.status == 413 and "at most 1000000 bytes" in answer.error["message"]
    body, headers = form({"prompt": "dog"}, {"image": b"x" * 200_001})
    answer = demo.ask("POST", EDITS, body, headers)
    assert answer.status == 413 and "at most 200000 bytes" in answer.error["message"]


def test_a_body_that_does_not_say_how_large_it_is(demo):
    """In chunks: the bytes that have come are counted."""
    with socket.create_connection(demo.address, timeout=30) as client:
        head = f"POST {GENERATIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        for _ in range(16):
            client.sendall(chunk)
        assert client.recv(4096).startswith(b"HTTP/1.1 413")


def huge_png(width: int, height: int) -> bytes:
    """The header of a PNG that says it is that large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


GOOD_FORM = {"prompt": "dog", "num_inference_steps": "2"}
FORMS = [
    (GOOD_FORM, {}, "image", "is required"),
    (GOOD_FORM | {"image": "https://example.com/x.png"}, {}, "image", "must be a file"),
    (GOOD_FORM, {"image": b""}, "image", "no picture that can be read"),
    (GOOD_FORM, {"image": b"\x89PNG\r\n\x1a\n" + b"x" * 100}, "image", "no picture"),
    (GOOD_FORM, {"image": picture_file()[:200]}, "image", "no picture"),
    (GOOD_FORM, {"image": b"%!PS-Adobe-3.0 EPSF-3.0\n"}, "image", "no picture"),
    (GOOD_FORM, {"image": huge_png(10_000, 10_000)}, "image", "at most 50000000 pixels"),
    (GOOD_FORM, {"image": huge_png(60_000, 60_000)}, "image", "picture"),
    (GOOD_FORM, {"image": picture_file(), "mask": picture_file()}, "mask", "not supported"),
    ({}, {"image": picture_file()}, "prompt", "is required"),
    (GOOD_FORM | {"n": "many"}, {"image": picture_file()}, "n", "must be a valid integer"),
    (GOOD_FORM | {"strength": "2"}, {"image": picture_file()}, "strength", "equal to 1, not '2'"),
    (GOOD_FORM | {"cache_config": "{"}, {"image": picture_file()}, "cache_config", "not JSON"),
    (GOOD_FORM | {"cache_config": "[]"}, {"image": picture_file()}, "cache_config", "an object"),
    ({"num_inference_steps": "2"}, {"image": b"x", "prompt": b"x"}, "prompt", "must be a text"),
]


@pytest.mark.parametrize(("fields", "files", "name", "message"), FORMS)
def test_a_form_is_checked_like_json(demo, fields, files, name, message):
    answer = demo.ask("POST", EDITS, *form(fields, files))
    assert answer.status == 400, answer.body
    assert answer.error["param"] == name
    assert message in answer.error["message"].replace("a JSON object", "an object")


def test_broken_forms(demo):
    body, headers = form(GOOD_FORM, {"image": picture_file()})
    assert demo.ask("POST", EDITS, body[:300], headers).status == 400
    assert demo.ask("POST", EDITS, b"", headers).status == 400
    no_edge = {"Content-Type": "multipart/form-data"}
    assert demo.ask("POST", EDITS, body, no_edge).status == 400
    many = b"".join(
        b'--edge\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\nx\r\n'
        for _ in range(20)
    )
    assert demo.ask("POST", EDITS, many + b"--edge--\r\n", headers).status == 400
    twice = b'--edge\r\nContent-Disposition: form-data; name="prompt"\r\n\r\ndog\r\n'
    answer = demo.ask("POST", EDITS, twice + body, headers)
    assert answer.error["param"] == "prompt" and "given twice" in answer.error["message"]


def test_nothing_of_a_request_is_written(demo, tmp_path, monkeypatch, profile_folder):
    monkeypatch.chdir(tmp_path)
    before = files_below(tmp_path)
    assert demo.ask("POST", EDITS, *form(GOOD_FORM, {"image": picture_file()})).status == 200
    assert demo.generate(**GOOD, cache_config={"preset": "learn"}).status == 400
    assert demo.generate(**GOOD, cache_config={"profile": "../x"}).status == 400
    assert files_below(tmp_path) == before and not profile_folder.exists()


def test_a_failed_request_leaves_the_next_one_right(demo, pipe, monkeypatch):
    wanted = {"prompt": "dog", "num_inference_steps": 12, "seed": 5, "guidance_scale": 3}
    before = demo.generate(**wanted).json
    for bad in ({"size": "100x100"}, {"cache_config": {"profile": "unknown"}}):
        assert demo.generate(**wanted | bad).status == 400

    decode, calls = pipe.vae.decode, []

    def fail(*args, **kwargs):
        calls.append(1)
        raise RuntimeError("out of memory\nat layer 3")

    with monkeypatch.context() as patched:
        patched.setattr(pipe.vae, "decode", fail)
        failed = demo.generate(**wanted)
    assert failed.status == 500 and calls and pipe.vae.decode == decode
    assert failed.error["message"] == (
        "DemoPipeline failed: RuntimeError: out of memory at layer 3"
    )
    assert failed.error["type"] == "server_error"
    after = demo.generate(**wanted).json
    assert after["data"] == before["data"]
    assert after["teacache"]["skipped"] == before["teacache"]["skipped"] > 0


def test_urls_where_no_files_are_kept(pipe):
    from image_server import serving

    from teacache.serving.pipelines import PipelineModel

    with serving(PipelineModel(pipe, "demo", None, steps=2)) as server:
        answer = server.generate(prompt="dog", response_format="url")
        assert answer.status == 400 and answer.error["param"] == "response_format"
        assert "must be b64_json" in answer.error["message"]
        assert server.generate(prompt="dog").json["teacache"]["runs"] == []
