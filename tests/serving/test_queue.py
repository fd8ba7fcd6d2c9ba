"""The queue: its bound and order, clients that go away, failures, and the end."""

from __future__ import annotations

import json
import threading
import time

import openai
import pytest
from image_server import GatedModel, serving

RUNNING, WAITING = "teacache_jobs_running", "teacache_queue_length"
CANCELLED = 'teacache_jobs_total{outcome="cancelled"}'


@pytest.fixture
def model():
    return GatedModel()


@pytest.fixture
def server(model):
    with serving(model, capacity=2) as running:
        yield running
        model.open(1000)


def full(server):
    """One request that runs and two that wait."""
    connections = [server.begin(prompt="runs")]
    server.wait_for(RUNNING, 1)
    for number in (1, 2):
        connections.append(server.begin(prompt=f"waits {number}"))
        server.wait_for(WAITING, number)
    return connections


def test_more_than_the_bound_is_429_with_retry_after(server, model):
    connections = full(server)
    answer = server.generate(prompt="too many")
    assert answer.status == 429 and answer.error["code"] == "queue_full"
    assert "2 requests wait already" in answer.error["message"]
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    with pytest.raises(openai.RateLimitError):
        server.openai().images.generate(prompt="too many")
    assert server.metric('teacache_jobs_total{outcome="refused"}') == 2
    assert server.ask("GET", "/health").json == {"status": "ok", "waiting": 2, "running": 1}

    model.open(6)
    for connection in connections:
        assert connection.getresponse().status == 200
    assert model.prompts == ["runs", "waits 1", "waits 2"], "in the order in which they came"
    assert server.metric(WAITING) == server.metric(RUNNING) == 0


def test_the_client_tries_again_by_itself(server, model):
    """The openai client waits as Retry-After says."""
    full(server)
    client = server.openai().with_options(max_retries=2)
    threading.Timer(0.5, model.open, [8]).start()
    assert client.images.generate(prompt="patient").data
    assert model.prompts[-1] == "patient"


def test_a_client_that_goes_away_while_it_waits(server, model):
    runs, waits, last = full(server)
    waits.close()
    server.wait_for(WAITING, 1)
    model.open(4)
    assert runs.getresponse().status == last.getresponse().status == 200
    assert model.prompts == ["runs", "waits 2"] and server.metric(CANCELLED) == 1


def test_a_client_that_goes_away_while_its_picture_is_sampled(server, model):
    runs, waits, _ = full(server)
    runs.close()
    model.open(0)
    server.wait_for(CANCELLED, 1)
    assert model.cancelled == ["runs"]
    model.open(4)
    assert waits.getresponse().status == 200


def test_a_stream_that_is_left_is_cancelled(server, model):
    with server.openai().images.generate(prompt="left", stream=True) as stream:
        model.open(1)
        assert next(iter(stream)).model_extra["step"] == 1
    server.wait_for(CANCELLED, 1)
    assert model.cancelled == ["left"] and server.metric(RUNNING) == 0

    left = server.begin(prompt="never read", stream=True)
    server.wait_for(RUNNING, 1)
    left.close()
    server.wait_for(CANCELLED, 2)
    model.open(3)
    assert server.generate(prompt="next").status == 200


def test_a_silent_stream_is_kept_open(server, model, monkeypatch):
    monkeypatch.setattr("teacache.serving.streaming.HEARTBEAT", 0.05)
    connection = server.begin(prompt="slow", stream=True)
    response = connection.getresponse()
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.readline() == b": waiting\n" and response.readline() == b"\n"
    model.open(2)
    events = [line for line in response.read().splitlines() if line.startswith(b"data: ")]
    assert json.loads(events[-1].removeprefix(b"data: "))["type"] == "image_generation.completed"


def test_what_fails_stops_neither_the_server_nor_the_queue(server, model):
    broken = server.generate(prompt="broken")
    assert broken.status == 500 and broken.error["message"] == "the server failed"
    interrupted = server.generate(prompt="interrupted")
    assert interrupted.status == 500 and "interrupted" in interrupted.error["message"]
    assert server.metric('teacache_jobs_total{outcome="failed"}') == 2
    model.open(2)
    assert server.generate(prompt="dog").status == 200
    assert server.ask("GET", "/health").status == 200


def test_a_server_that_is_stopped_answers_and_ends(model):
    with serving(model, capacity=2) as server:
        connections = full(server)
        started = time.monotonic()
        server.service.queue.stop()
        for connection in connections:
            response = connection.getresponse()
            assert response.status == 503
            assert json.loads(response.read())["error"]["code"] == "stopping"
        assert server.ask("GET", "/health").status == 503
        assert server.generate(prompt="late").status == 503
    assert time.monotonic() - started < 5 and model.cancelled == ["runs"]


def test_many_clients_at_once(server, model):
    """Every answer is a picture or 429, and none is lost."""
    model.open(1000)
    statuses: list[int] = []

    def ask():
        for _ in range(5):
            statuses.append(server.generate(prompt="many").status)

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statuses) == 60 and set(statuses) <= {200, 429} and 200 in statuses
    assert server.metric('teacache_jobs_total{outcome="done"}') == statuses.count(200)
    assert server.metric('teacache_jobs_total{outcome="refused"}') == statuses.count(429)


def test_no_place_to_wait(model):
    """With --max-queue 0 a request is sampled at once or refused."""
    with serving(model, capacity=0) as server:
        runs = server.begin(prompt="runs")
        server.wait_for(RUNNING, 1)
        assert server.generate(prompt="other").status == 429
        model.open(2)
        assert runs.getresponse().status == 200


def test_an_api_key(model):
    model.open(1000)
    with serving(model, api_key="s3cret") as server:
        assert server.openai("s3cret").images.generate(prompt="dog").data
        with pytest.raises(openai.AuthenticationError) as refused:
            server.openai("wrong").images.generate(prompt="dog")
        assert refused.value.code == "invalid_api_key" and "s3cret" not in str(refused.value)
        for headers in ({}, {"Authorization": "Basic s3cret"}, {"Authorization": "Bearer é"}):
            answer = server.ask("GET", "/v1/models", headers=headers)
            assert answer.status == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
        assert server.ask("GET", "/health").status == server.ask("GET", "/metrics").status == 200
        assert model.prompts == ["dog"]
