"""Workflows that ComfyUI writes into the pictures, films and sounds that it saves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError

PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8")
FILMS = (b"\x1aE\xdf\xa3", b"OggS", b"fLaC", b"ID3", b"\xff\xfb")
PROMPT, WORKFLOW = "prompt", "workflow"
COMMENT = "comment"
"""Holds both as one JSON object in films of a well-known pack."""


def is_media(start: bytes) -> bool:
    """Whether a file that begins with these 12 bytes is a picture, a film or a sound."""
    return is_picture(start) or start.startswith(FILMS) or start[4:8] == b"ftyp"


def is_picture(start: bytes) -> bool:
    webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    avif = start[4:12] in (b"ftypavif", b"ftypavis")
    return webp or avif or start.startswith(PICTURES)


def read_media(path: Path, start: bytes) -> dict[str, Any]:
    """The graph in a saved picture, film or sound.

    The prompt that was executed comes first: it needs no conversion and has the values that made
    the file. Without one it is the workflow as the editor saves it.

    Args:
        path: the file.
        start: its first 12 bytes.

    Raises:
        UserError: the file cannot be read or holds neither.
    """
    entries = picture_entries(path) if is_picture(start) else film_entries(path)
    found = {name.lower(): text for name, text in entries if isinstance(text, str)}
    if COMMENT in found:
        both = parsed(found[COMMENT])
        for name in (PROMPT, WORKFLOW):
            if name in both:
                inner = both[name]
                found.setdefault(name, inner if isinstance(inner, str) else json.dumps(inner))
    for name in (PROMPT, WORKFLOW):
        graph = parsed(found.get(name, ""))
        if graph:
            return graph
    raise UserError(
        f"{path}: holds no workflow: ComfyUI did not save it, or saved it without metadata"
    )


def parsed(text: str) -> dict[str, Any]:
    """The JSON object in `text`; an empty one if there is none."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def picture_entries(path: Path) -> Iterable[tuple[str, Any]]:
    """The texts of a PNG, and those in EXIF that begin with their name and a colon."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            picture.load()  # a PNG may hold texts behind the pixels
            entries = [(str(name), text) for name, text in picture.info.items()]
            exif = picture.getexif().values()
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise UserError(f"{path}: cannot be read as a picture: {error}") from None
    for value in exif:
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        name, colon, rest = text.strip("\0").partition(":")
        if colon and name.lower() in (PROMPT, WORKFLOW):
            entries.append((name, rest))
    return entries


def film_entries(path: Path) -> Iterable[tuple[str, Any]]:
    """The metadata of a film or sound and of its streams."""
    try:
        import av
    except ImportError:
        raise UserError(f"{path}: films and sounds are read with the package av") from None
    try:
        with av.open(str(path)) as container:
            tags: list[Mapping[str, str]] = [stream.metadata for stream in container.streams]
            return [entry for tag in (*tags, container.metadata) for entry in tag.items()]
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a film or sound: {error}") from None
