"""Workflows in the metadata of pictures, films and sounds, written as ComfyUI writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from teacache.errors import UserError
from teacache.workflows.graph import read_workflow

PROMPT = {"1": {"class_type": "Load", "inputs": {"name": "é"}, "is_changed": [float("nan")]}}
WORKFLOW = {"nodes": [], "links": []}
BOTH = {"prompt": json.dumps(PROMPT), "workflow": json.dumps(WORKFLOW)}


def picture(path: Path, texts: dict[str, str]) -> Path:
    """A picture as SaveImage (PNG) and SaveAnimatedWEBP (EXIF) write it."""
    image = Image.new("RGB", (4, 4))
    if path.suffix == ".png":
        info = PngInfo()
        for name, text in texts.items():
            info.add_text(name, text)
        image.save(path, pnginfo=info)
        return path
    exif = image.getexif()
    for number, (name, text) in enumerate(texts.items()):
        exif[0x0110 - number] = f"{name}:{text}"
    image.save(path, exif=exif)
    return path


def film(path: Path, texts: dict[str, str]) -> Path:
    """A film as SaveVideo and SaveWEBM write it."""
    av = pytest.importorskip("av")
    options = {"movflags": "use_metadata_tags"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        for name, text in texts.items():
            container.metadata[name] = text
        stream = container.add_stream("mpeg4" if path.suffix == ".mp4" else "libvpx-vp9", rate=4)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def sound(path: Path, texts: dict[str, str]) -> Path:
    """A sound as SaveAudio writes it."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        for name, text in texts.items():
            container.metadata[name] = text
        stream = container.add_stream("flac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 4000), np.int16), format="s16", layout="mono"
        )
        frame.sample_rate, frame.pts = 8000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def written(path: Path, texts: dict[str, str]) -> Path:
    if path.suffix in (".mp4", ".webm", ".mkv"):
        return film(path, texts)
    return sound(path, texts) if path.suffix == ".flac" else picture(path, texts)


def without_nan(graph: Any) -> Any:
    return json.loads(json.dumps(graph).replace("NaN", "0"))


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg", "a.mp4", "a.webm", "a.mkv", "a.flac"])
def test_the_prompt_that_ran_comes_first(tmp_path, name):
    assert without_nan(read_workflow(written(tmp_path / name, BOTH))) == without_nan(PROMPT)
    only = {"workflow": BOTH["workflow"]}
    assert read_workflow(written(tmp_path / f"b{name}", only)) == WORKFLOW


def test_a_name_that_tells_another_kind(tmp_path):
    saved = picture(tmp_path / "a.png", BOTH).rename(tmp_path / "a.json")
    assert "1" in read_workflow(saved)


def test_both_in_a_comment(tmp_path):
    comment = json.dumps({"prompt": BOTH["prompt"], "workflow": WORKFLOW, "other": 1})
    assert "1" in read_workflow(film(tmp_path / "a.mp4", {"comment": comment}))
    comment = json.dumps({"workflow": WORKFLOW})
    assert read_workflow(film(tmp_path / "b.mp4", {"comment": comment})) == WORKFLOW


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.mp4", "a.flac"])
@pytest.mark.parametrize(
    "texts", [{}, {"prompt": "{", "workflow": "[]"}, {"parameters": "a fox"}], ids=str
)
def test_what_holds_no_workflow(tmp_path, name, texts):
    path = written(tmp_path / name, texts)
    with pytest.raises(UserError, match="holds no workflow: ComfyUI did not save it") as error:
        read_workflow(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.mp4"])
def test_broken_files(tmp_path, name):
    path = written(tmp_path / name, BOTH)
    for size in (12, 20, 40):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(UserError) as error:
            read_workflow(path)
        assert "\n" not in str(error.value)


def test_text_with_a_mark_and_text_that_lies_too_deep(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(WORKFLOW), encoding="utf-8-sig")
    assert read_workflow(path) == WORKFLOW
    for depth in (150, 100_000):
        path.write_text('{"a":' + "[" * depth + "]" * depth + "}", encoding="utf-8")
        with pytest.raises(UserError, match="too deep inside each other"):
            read_workflow(path)
