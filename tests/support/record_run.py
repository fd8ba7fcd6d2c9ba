"""Records a run of the quick start in the real editor, as an animation.

    python tests/support/record_run.py docs/images/run.webp

Starts a ComfyUI server with the pack, opens its editor in Chromium, presses Run and takes
screenshots until the run has ended. Frames are shown as long as they lasted, the last one longer.
Needs COMFYUI_DIR, playwright, and a Chromium (CHROMIUM, or on the search path).
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from comfy_server import serving
from editing import FLAGS, Editor, open_editor, quickstart_graph
from PIL import Image
from playwright.sync_api import sync_playwright

from bootstrap.browser import find_browser

STEPS = 30
BATCH = 4
SHOWN = {"ApplyTeaCache": (380, 330), "KSampler": (320, 330), "SaveImage": (330, 330)}
"""The nodes in the picture, and their sizes."""
SCALE, OFFSET, GAP, MARGIN = 1.0, (80, 190), 60, 26
"""Zoom, place of the first node, pixels between the nodes and around them."""
LAST_FRAME_MS, LEAST_FRAME_MS = 2500, 40
MOST_BYTES = 3_000_000


def arranged(graph: dict[str, Any]) -> dict[str, Any]:
    """The graph with the nodes of `SHOWN` side by side, and all others out of the picture."""
    for node in graph["nodes"]:
        node["pos"] = [node["pos"][0] - 6000, node["pos"][1]]
    left = 0.0
    for kind, size in SHOWN.items():
        node = next(node for node in graph["nodes"] if node["type"] == kind)
        node["pos"], node["size"] = [left, 0], list(size)
        left += node["size"][0] + GAP
    return graph


def clip_of(editor: Editor) -> dict[str, float]:
    """The part of the page that holds the nodes of `SHOWN`, in pixels."""
    left, top, right, bottom = editor.page.evaluate(
        """shown => {
            const sides = app.graph.nodes
                .filter(node => shown.includes(node.type))
                .map(node => node.getBounding());
            const { scale, offset } = app.canvas.ds;
            const canvas = app.canvas.canvas.getBoundingClientRect();
            const to = (value, at, start) => (value + offset[at]) * scale + start;
            return [
                to(Math.min(...sides.map(s => s[0])), 0, canvas.left),
                to(Math.min(...sides.map(s => s[1])), 1, canvas.top),
                to(Math.max(...sides.map(s => s[0] + s[2])), 0, canvas.left),
                to(Math.max(...sides.map(s => s[1] + s[3])), 1, canvas.top),
            ];
        }""",
        list(SHOWN),
    )
    return {
        "x": left - MARGIN,
        "y": top - MARGIN,
        "width": right - left + 2 * MARGIN,
        "height": bottom - top + 2 * MARGIN,
    }


def record(editor: Editor) -> list[tuple[float, Image.Image]]:
    """The time in seconds and the picture of each frame of one run, which is the second one."""
    for run in range(2):  # the first run loads the models
        graph = arranged(quickstart_graph(STEPS))
        latent = next(node for node in graph["nodes"] if node["type"] == "EmptySD3LatentImage")
        latent["widgets_values"][2] = BATCH
        editor.load(graph)
        editor.show(SCALE, OFFSET)
        if run == 0:
            editor.run()
            editor.finish()
    clip, over = clip_of(editor), 0.0
    frames: list[tuple[float, Image.Image]] = []
    editor.run()
    while not over or time.monotonic() < over:
        shot = editor.page.screenshot(type="png", clip=clip)
        frames.append((time.monotonic(), Image.open(io.BytesIO(shot)).convert("RGB")))
        if not over and editor.page.evaluate("() => window.finished"):
            over = time.monotonic() + 2.0
    return frames


def write(frames: list[tuple[float, Image.Image]], out: Path) -> None:
    """An animation that lasts as long as the run did; equal frames become one."""
    kept: list[tuple[float, Image.Image]] = []
    for at, picture in frames:
        if not kept or picture.tobytes() != kept[-1][1].tobytes():
            kept.append((at, picture))
    ends = [at for at, _ in kept[1:]]
    durations = [
        max(round(1000 * (end - at)), LEAST_FRAME_MS)
        for (at, _), end in zip(kept, ends, strict=False)
    ]
    first, *rest = [picture for _, picture in kept]
    first.save(
        out, save_all=True, append_images=rest, duration=[*durations, LAST_FRAME_MS], loop=0,
        quality=82, method=6,
    )  # fmt: skip
    print(f"{out}: {len(kept)} frames, {sum(durations) / 1000:.1f} s, {out.stat().st_size:,} bytes")
    if out.stat().st_size > MOST_BYTES:
        sys.exit(f"{out}: more than {MOST_BYTES:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT.webp")
    parser.add_argument("--mode", choices=("classic", "nodes2"), default="classic")
    args = parser.parse_args()
    chromium = find_browser(Path(sys.executable))
    if not chromium or "COMFYUI_DIR" not in os.environ:
        sys.exit("needs COMFYUI_DIR, and a Chromium in CHROMIUM or on the search path")
    comfyui = Path(os.environ["COMFYUI_DIR"])
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(comfyui, Path(folder) / "comfyui") as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        with open_editor(browser, server, args.mode) as editor:
            frames = record(editor)
        browser.close()
    write(frames, args.out)


if __name__ == "__main__":
    main()
