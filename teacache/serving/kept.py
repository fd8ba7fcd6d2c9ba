"""Pictures kept in memory for a while, for answers that name a URL."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

KEPT_SECONDS = 3600.0


@dataclass(frozen=True)
class Kept:
    """The file of a picture, its media type, and until when it is kept."""

    data: bytes
    media_type: str
    until: float


class KeptPictures:
    """The newest pictures, by names that cannot be guessed; for several threads.

    Args:
        most_bytes: of all of them together; the oldest ones go first.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def keep(self, data: bytes, media_type: str) -> str:
        """Keeps a picture's file; returns its name."""
        name = secrets.token_urlsafe(16)
        with self._lock:
            self._kept[name] = Kept(data, media_type, time.monotonic() + KEPT_SECONDS)
            self._bytes += len(data)
            while self._bytes > self._most_bytes or self._oldest_is_over():
                self._bytes -= len(self._kept.popitem(last=False)[1].data)
        return name

    def find(self, name: str) -> Kept | None:
        """The picture of that name, None where it is kept no longer."""
        with self._lock:
            kept = self._kept.get(name)
        return kept if kept is not None and kept.until > time.monotonic() else None

    def _oldest_is_over(self) -> bool:
        return bool(self._kept) and next(iter(self._kept.values())).until <= time.monotonic()
