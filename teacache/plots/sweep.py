"""A sweep at a glance: every picture with its figures, and a chart of quality against speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..comparison.results import noise
from .canvas import GRID, INK, MUTED, PANEL, Canvas, Point, Scale, shorten, text_width, wrap

GAP, EDGE, CAPTION = 16, 20, 48
SMALLEST, LARGEST = 224, 384  # longer side of a cell's picture
WIDEST = 5  # cells in a row, where there is one axis
CHART_HEIGHT, CHART_WIDTH = 280, 640
BAND, DOT = 22, 4.2
LEFT, RIGHT, TOP, BOTTOM = 74, 26, 44, 46
SERIES = ("#3d6fb4", "#3fae7f", "#c77d0a", "#8b68bd", "#d1495b", "#2a9db0", "#7a6a58", "#66727f")
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Layout:
    """Where cell 0, the reference, and cells 1 …, the points, stand.

    With two axes, x runs along and y down, and the reference stands left of the first row.
    """

    columns: int
    rows: int
    two_axes: bool
    width: int
    height: int

    @classmethod
    def of(cls, report: dict[str, Any], size: tuple[int, int]) -> Layout:
        """size: of one picture, in pixels; cells are enlarged by whole factors, or reduced."""
        across = len(report["x"]["values"]) + 1
        rows = 1 if report["y"] is None else len(report["y"]["values"])
        if report["y"] is None:
            rows = math.ceil(across / WIDEST)
            across = math.ceil(across / rows)
        longest = max(size)
        scale = math.ceil(SMALLEST / longest) if longest < SMALLEST else min(1, LARGEST / longest)
        width, height = (max(1, round(side * scale)) for side in size)
        return cls(across, rows, report["y"] is not None, width, height)

    def corner(self, cell: int) -> tuple[int, int]:
        """Left and top of a cell's picture."""
        column, row = cell % self.columns, cell // self.columns
        if self.two_axes and cell > 0:
            row, column = divmod(cell - 1, self.columns - 1)
            column += 1
        return (
            EDGE + column * (self.width + GAP),
            EDGE + CAPTION + row * (self.height + CAPTION + GAP),
        )

    @property
    def right(self) -> int:
        return 2 * EDGE + self.columns * (self.width + GAP) - GAP

    @property
    def bottom(self) -> int:
        return EDGE + self.rows * (self.height + CAPTION + GAP)


def sweep_picture(report: dict[str, Any], pictures: Sequence[Image.Image | None]) -> Image.Image:
    """The grid and the chart of a sweep's report (`teacache.sweep.results`), RGB.

    pictures: of the reference and of every point, in the report's order; None where there is none.
    """
    sides = [report["reference"], *report["points"]]
    if len(pictures) != len(sides):
        raise ValueError(f"there must be {len(sides)} pictures, not {len(pictures)}")
    size = next(picture.size for picture in pictures if picture is not None)
    layout = Layout.of(report, size)
    charted = [point for point in report["points"] if point["status"] == "done"]
    width = max(layout.right, CHART_WIDTH if charted else 0)
    canvas = Canvas(width, layout.bottom + (CHART_HEIGHT if charted else EDGE))
    for cell, side in enumerate(sides):
        draw_caption(canvas, layout, cell, side)
    if charted:
        draw_chart(canvas, layout.bottom, report, charted)
    finished = canvas.finish()
    for cell, picture in enumerate(pictures):
        if picture is not None:
            enlarged = layout.width >= picture.width
            how = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
            small = picture.convert("RGB").resize((layout.width, layout.height), how)
            finished.paste(small, layout.corner(cell))
    return finished


def draw_caption(canvas: Canvas, layout: Layout, cell: int, side: dict[str, Any]) -> None:
    x, y = layout.corner(cell)
    width, height = layout.width, layout.height
    canvas.box(x - 1, y - 1, x + width + 1, y + height + 1, GRID)
    canvas.box(x, y, x + width, y + height, PANEL)
    canvas.text(x, y - 27, shorten(side["label"], 15, width), 15, INK)
    canvas.text(x, y - 9, shorten(caption(side), 13, width), 13, MUTED)
    if side["status"] != "done":
        lines = wrap(side["error"] or "not sampled", 13, width - 20)
        for number, line in enumerate(lines[: (height - 20) // 18]):
            canvas.text(x + 10, y + 24 + 18 * number, shorten(line, 13, width - 20), 13, MUTED)


def caption(side: dict[str, Any]) -> str:
    """`2.31x · 45.2 dB · 20 of 50 computed`; the time alone for the reference."""
    if side["status"] != "done":
        return "cannot run" if side["error"] else ""
    if "speedup" not in side:
        return f"{side['seconds']:.2f} s"
    parts = [f"{side['speedup']:.2f}x", noise(side)]
    if side["evaluations"]:
        parts.append(f"{side['computed']} of {side['evaluations']} computed")
    return " · ".join(parts)


def draw_chart(
    canvas: Canvas, top: int, report: dict[str, Any], points: list[dict[str, Any]]
) -> None:
    """PSNR against speed-up: a dot for each point, a line for each value of y if x is a number.

    Pictures identical to the reference, whose PSNR is infinite, stand in a band of their own.
    """
    left, right = EDGE + LEFT, min(canvas.width - RIGHT, EDGE + LEFT + 900)
    upper, lower = top + TOP, top + CHART_HEIGHT - BOTTOM
    noises = [point["psnr"] for point in points if not point["identical"]]
    band = BAND if len(noises) < len(points) else 0
    speeds = [1.0, *(point["speedup"] for point in points)]
    across = Scale(*padded(min(speeds), max(speeds)), left, right)
    low, high = padded(min(noises), max(noises)) if noises else (0.0, 1.0)
    up = Scale(low, high, lower, upper + band)

    def place(point: dict[str, Any]) -> Point:
        height = upper + band / 2 if point["identical"] else up(point["psnr"])
        return across(point["speedup"]), height

    canvas.box(left, upper, right, lower, PANEL)
    for value in across.marks():
        canvas.line([(across(value), upper), (across(value), lower)], GRID)
        canvas.text(across(value), lower + 17, f"{value:g}x", 12, MUTED, "ms")
    for value in up.marks() if noises else ():
        canvas.line([(left, up(value)), (right, up(value))], GRID)
        canvas.text(left - 10, up(value), f"{value:g}", 12, MUTED, "rm")
    if band:
        canvas.line([(left, upper + band), (right, upper + band)], GRID)
        canvas.text(left - 10, upper + band / 2, "identical", 12, MUTED, "rm")
    canvas.text(left, upper - 8, "PSNR against the uncached picture, dB", 12, MUTED)
    canvas.text((left + right) / 2, lower + 36, "speed-up", 12, MUTED, "ms")

    setting = report["x"]["setting"]
    ordered = all(isinstance(point["settings"][setting], (int, float)) for point in points)
    names = [""] if report["y"] is None else report["y"]["values"]
    for row in range(len(names)):
        places = [place(point) for point in points if point["row"] == row]
        if ordered and len(places) > 1:
            canvas.line(places, SERIES[row % len(SERIES)], 1.6)
        for spot in places:
            canvas.dot(*spot, DOT, SERIES[row % len(SERIES)])
    draw_series_names(canvas, right, upper - 8, names)
    taken = [around(place(point)) for point in points]
    for point in points:
        text = report["x"]["values"][point["column"]]
        write_beside(canvas, place(point), text, taken, (left, upper, right, lower))


def draw_series_names(canvas: Canvas, right: float, y: float, names: list[str]) -> None:
    """The values of y and their colours, ending at `right`; nothing for a single axis."""
    for row in reversed(range(len(names))):
        if names[row]:
            canvas.text(right, y, names[row], 12, INK, "rs")
            right -= text_width(names[row], 12) + 10
            canvas.dot(right, y - 4, DOT, SERIES[row % len(SERIES)])
            right -= 20


def around(place: Point) -> Box:
    return place[0] - DOT, place[1] - DOT, place[0] + DOT, place[1] + DOT


def padded(low: float, high: float) -> tuple[float, float]:
    """A range a little wider than from `low` to `high`, never empty."""
    room = 0.1 * max(high - low, 0.02 * abs(high), 1e-3)
    return low - room, high + room


def write_beside(canvas: Canvas, place: Point, text: str, taken: list[Box], bounds: Box) -> None:
    """`text` next to a dot where nothing stands yet; left out where there is no room."""
    x, y = place
    width = text_width(text, 12)
    for dx, dy, anchor in ((9, 0, 0.0), (0, -13, 0.5), (0, 14, 0.5), (-9, 0, 1.0), (9, -13, 0.0)):
        start = x + dx - width * anchor
        box = (start, y + dy - 7, start + width, y + dy + 7)
        inside = box[0] >= bounds[0] and box[1] >= bounds[1]
        inside = inside and box[2] <= bounds[2] and box[3] <= bounds[3]
        if inside and not any(overlap(box, other) for other in taken):
            canvas.text(start, y + dy, text, 12, INK, "lm")
            taken.append(box)
            return


def overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
