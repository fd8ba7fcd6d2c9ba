"""The image server on a port of this machine, in a thread or as a process; models to serve."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI
from paths import ROOT
from PIL import Image

from teacache.serving.app import Service
from teacache.serving.executors import LocalExecutor
from teacache.serving.metrics import Metrics
from teacache.serving.models import Cancelled, Pictures, SamplingProgress
from teacache.serving.queue import JobQueue
from teacache.serving.server import Server, bind, url_of

WAIT = 60.0


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """Of an answer in OpenAI's error form."""
        assert set(self.json) == {"error"}
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"} and "\n" not in error["message"]
        return error


@dataclass
class Running:
    """A server that answers at `url`; `said` is what its process printed until then."""

    url: str
    service: Service | None = None
    said: str = ""

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def openai(self, key: str = "none") -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=WAIT)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self.address, timeout=WAIT)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """The answer to a request; a `body` that is not bytes is sent as JSON."""
        sent = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        connection = self.connect()
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def generate(self, **fields: Any) -> Answer:
        return self.ask("POST", "/v1/images/generations", fields)

    def begin(self, **fields: Any) -> http.client.HTTPConnection:
        """A request whose answer is not waited for."""
        connection = self.connect()
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/images/generations", json.dumps(fields), headers)
        return connection

    def metric(self, name: str) -> float:
        """The value of one line of `/metrics`."""
        text = self.ask("GET", "/metrics").body.decode()
        values = [line.split()[-1] for line in text.splitlines() if line.startswith(f"{name} ")]
        assert len(values) == 1, f"{name} in:\n{text}"
        return float(values[0])

    def wait_for(self, name: str, value: float) -> None:
        """Waits until a metric has a value."""
        until = time.monotonic() + WAIT
        while self.metric(name) != value:
            assert time.monotonic() < until, f"{name} is {self.metric(name)}, not {value}"
            time.sleep(0.02)


@contextmanager
def serving(model: Any, capacity: int = 4, **options: Any) -> Iterator[Running]:
    """A server of `model` in a thread; `options` are those of `Service`."""
    metrics = Metrics()
    queue = JobQueue(LocalExecutor(model), capacity, metrics)
    service = Service(model.description, queue, metrics, **options)
    server, taken = Server(service, verbose=False), bind("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
    thread.start()
    try:
        until = time.monotonic() + WAIT
        while not server.started:
            assert thread.is_alive() and time.monotonic() < until
            time.sleep(0.01)
        yield Running(url_of(taken), service)
    finally:
        server.should_exit = True
        thread.join(WAIT)
        taken.close()
        assert not thread.is_alive()


@contextmanager
def served_command(
    *arguments: Any, environment: dict[str, str] | None = None
) -> Iterator[tuple[Running, subprocess.Popen[str]]]:
    """`teacache serve` as a process of its own, on a free port."""
    command = [sys.executable, "-m", "teacache", "serve", "--port", "0", *map(str, arguments)]
    known = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=known, cwd=ROOT)
    assert process.stderr is not None
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if line.startswith("serving "):
                break
        else:
            raise AssertionError("".join(said))
        url = line.split(" on ")[1].split("/v1")[0]
        running = Running(url, said="".join(said))
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{running.url}/health", timeout=WAIT)
                break
            except OSError:
                time.sleep(0.05)
        yield running, process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(WAIT)
        process.stderr.close()


class GatedModel:
    """A model whose steps wait until they are let through.

    Attributes:
        steps: how many may still be sampled; each sampled picture needs two.
        prompts: of the requests that began.
        cancelled: of those that were cancelled while they ran.
    """

    name = "gated"
    takes_images = False
    lines = ()

    def __init__(self, steps: int = 0) -> None:
        self.about: dict[str, Any] = {}
        self.description = self
        self.gate = threading.Semaphore(steps)
        self.prompts: list[str] = []
        self.cancelled: list[str] = []

    def check(self, request: Any) -> None:
        pass

    def open(self, steps: int = 2) -> None:
        for _ in range(steps):
            self.gate.release()

    def sample(self, request: Any, on_progress: Any, is_cancelled: Any) -> Pictures:
        self.prompts.append(request.prompt)
        if request.prompt == "interrupted":
            raise KeyboardInterrupt
        if request.prompt == "broken":
            raise ZeroDivisionError("a secret of the server")
        for step in (1, 2):
            while not self.gate.acquire(timeout=0.01):
                if is_cancelled():
                    self.cancelled.append(request.prompt)
                    raise Cancelled
            on_progress(SamplingProgress("sampling", step, 2))
        return Pictures([Image.new("RGB", (16, 16))], 0.1, 0)


def opened(entry: Any) -> Image.Image:
    """The picture in an entry of `data`."""
    return Image.open(io.BytesIO(base64.b64decode(entry.b64_json)))


def picture_file(size: tuple[int, int] = (128, 128), format: str = "PNG") -> bytes:
    """The file of a picture with a gradient."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(file, format)
    return file.getvalue()


def form(fields: dict[str, str], files: dict[str, bytes]) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of a form."""
    parts = [
        f'--edge\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    for name, data in files.items():
        head = f'--edge\r\nContent-Disposition: form-data; name="{name}"; filename="../../x.png"'
        parts += [f"{head}\r\nContent-Type: image/png\r\n\r\n".encode(), data, b"\r\n"]
    return b"".join([*parts, b"--edge--\r\n"]), {
        "Content-Type": "multipart/form-data; boundary=edge"
    }


def files_below(folder: Path) -> set[str]:
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
