"""What one request may ask for at most."""

from __future__ import annotations

from dataclasses import dataclass

SMALLEST_SIDE = 16
MAX_PROMPT = 32_000
"""Characters of a prompt."""
MAX_JSON = 1_000_000
"""Bytes of a request without pictures."""
MAX_PICTURES = 4
"""Pictures to edit in one request."""
MAX_UPLOADED_PIXELS = 50_000_000
"""Pixels of a picture to edit, before it is reduced to `Limits.side`."""
MAX_PARTIAL_IMAGES = 3
MAX_SEED = 2**64 - 1
BODY_SECONDS = 60.0
"""Within which a request's body must have arrived."""


@dataclass(frozen=True)
class Limits:
    """The limits that whoever starts a server may change.

    Args:
        side: longest side of a picture, in pixels.
        steps: sampling steps.
        pictures: pictures of one request.
        body: bytes of a request with pictures to edit.
    """

    side: int = 2048
    steps: int = 200
    pictures: int = 8
    body: int = 32 * 2**20
