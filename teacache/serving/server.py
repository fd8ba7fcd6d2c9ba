"""The server itself: its port, its start and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from ..errors import UserError
from .app import Service, create_app

GRACE = 5
"""Seconds that answers may take once the server was asked to stop."""

KEEP_ALIVE = 75
"""Seconds that an idle connection is kept: longer than clients and proxies use one again."""


def bind(host: str, port: int) -> socket.socket:
    """A socket for the server: taken, but not open to clients yet.

    Args:
        host: a name or an address; `0.0.0.0` and `::` stand for all.
        port: 0 for any that is free.

    Raises:
        UserError: the port is in use, or the host is none of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UserError(f"--host {host}: no such host: {error.strerror}") from None
    taken = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it would let two servers share the port
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        taken.close()
        raise UserError(f"--port {port}: cannot be used on {host}: {error.strerror}") from None
    return taken


def url_of(taken: socket.socket) -> str:
    host, port = taken.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """A uvicorn server that cancels its jobs as soon as it is asked to stop."""

    def __init__(self, service: Service, verbose: bool) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(service),
                log_level="info" if verbose else "warning",
                timeout_graceful_shutdown=GRACE,
                timeout_keep_alive=KEEP_ALIVE,
                server_header=False,
            )
        )
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._service.queue.stop()
        if self.force_exit:
            self._service.queue.abandon()


def serve(service: Service, taken: socket.socket, verbose: bool) -> None:
    """Answers requests until Ctrl-C or SIGTERM; then returns within seconds.

    A step that takes longer is left behind, at a second Ctrl-C at once: the executor is busy then.
    """
    with contextlib.suppress(KeyboardInterrupt):  # raised again by uvicorn, once it has stopped
        Server(service, verbose).run(sockets=[taken])


@contextmanager
def stops_by_signal() -> Iterator[None]:
    """SIGTERM ends the process as Ctrl-C does, also while a model is loaded."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
