"""A sweep's results: every image with its metrics, and a chart of quality against speed-up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..comparison.results import noise
from .canvas import GRID, MUTED, PANEL, TEXT, Canvas, Point, Scale, shorten, text_width, wrap

GAP, MARGIN, CAPTION = 16, 20, 48
MIN_CELL, MAX_CELL = 224, 384  # limits of the longer side of a cell's image
MAX_COLUMNS = 5  # of the grid of a sweep with one axis
CHART_HEIGHT, CHART_MIN_WIDTH, CHART_MAX_WIDTH = 280, 640, 900
IDENTICAL_BAND, DOT = 22, 4.2
LEFT, RIGHT, TOP, BOTTOM = 74, 26, 44, 46
SERIES = ("#3d6fb4", "#3fae7f", "#c77d0a", "#8b68bd", "#d1495b", "#2a9db0", "#7a6a58", "#66727f")
Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""


@dataclass(frozen=True)
class Layout:
    """The grid of images: cell 0 shows the reference, cells 1 and up the sweep's points.

    With two axes, a column stands for a value of x, a row for a value of y, and the reference is
    left of the first row.

    Attributes:
        columns: Number of columns, the reference's included.
        rows: Number of rows.
        two_axes: Whether the sweep has a y axis.
        width: Width of a cell's image, in pixels.
        height: Height of a cell's image, in pixels.
    """

    columns: int
    rows: int
    two_axes: bool
    width: int
    height: int

    @classmethod
    def of(cls, report: dict[str, Any], size: tuple[int, int]) -> Layout:
        """The layout for a sweep.

        Args:
            report: As `comparison.results.results` returns it.
            size: Width and height of one image; enlarged by an integer factor or reduced to fit
                a cell.
        """
        columns = len(report["x"]["values"]) + 1
        rows = 1 if report["y"] is None else len(report["y"]["values"])
        if report["y"] is None:
            rows = math.ceil(columns / MAX_COLUMNS)
            columns = math.ceil(columns / rows)
        longest = max(size)
        scale = math.ceil(MIN_CELL / longest) if longest < MIN_CELL else min(1, MAX_CELL / longest)
        width, height = (max(1, round(length * scale)) for length in size)
        return cls(columns, rows, report["y"] is not None, width, height)

    def corner(self, cell: int) -> tuple[int, int]:
        """Left and top of a cell's image, in pixels."""
        column, row = cell % self.columns, cell // self.columns
        if self.two_axes and cell > 0:
            row, column = divmod(cell - 1, self.columns - 1)
            column += 1
        return (
            MARGIN + column * (self.width + GAP),
            MARGIN + CAPTION + row * (self.height + CAPTION + GAP),
        )

    @property
    def right(self) -> int:
        """Width of the grid with its margins, in pixels."""
        return 2 * MARGIN + self.columns * (self.width + GAP) - GAP

    @property
    def bottom(self) -> int:
        """Height of the grid with its top margin, in pixels."""
        return MARGIN + self.rows * (self.height + CAPTION + GAP)


def sweep_plot(report: dict[str, Any], images: Sequence[Image.Image | None]) -> Image.Image:
    """Plots a sweep: the grid of images, and below it quality against speed-up.

    Args:
        report: As `comparison.results.results` returns it.
        images: Those of the reference and of every point, in the report's order, all of one size;
            None where nothing was sampled.

    Returns:
        An RGB image.

    Raises:
        ValueError: The number of images is not that of the report.
    """
    variants = [report["reference"], *report["points"]]
    if len(images) != len(variants):
        raise ValueError(f"there must be {len(variants)} pictures, not {len(images)}")
    size = next(image.size for image in images if image is not None)
    layout = Layout.of(report, size)
    charted = [point for point in report["points"] if point["status"] == "done"]
    width = max(layout.right, CHART_MIN_WIDTH if charted else 0)
    canvas = Canvas(width, layout.bottom + (CHART_HEIGHT if charted else MARGIN))
    for cell, variant in enumerate(variants):
        _draw_cell(canvas, layout, cell, variant)
    if charted:
        _draw_chart(canvas, layout.bottom, report, charted)
    plot = canvas.render()
    for cell, image in enumerate(images):
        if image is not None:
            enlarged = layout.width >= image.width
            resampling = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
            resized = image.convert("RGB").resize((layout.width, layout.height), resampling)
            plot.paste(resized, layout.corner(cell))
    return plot


def _draw_cell(canvas: Canvas, layout: Layout, cell: int, variant: dict[str, Any]) -> None:
    """A cell's frame, its label and caption, and the error where nothing was sampled."""
    x, y = layout.corner(cell)
    width, height = layout.width, layout.height
    canvas.rectangle(x - 1, y - 1, x + width + 1, y + height + 1, GRID)
    canvas.rectangle(x, y, x + width, y + height, PANEL)
    canvas.text(x, y - 27, shorten(variant["label"], 15, width), 15, TEXT)
    canvas.text(x, y - 9, shorten(_caption(variant), 13, width), 13, MUTED)
    if variant["status"] != "done":
        lines = wrap(variant["error"] or "not sampled", 13, width - 20)
        for number, line in enumerate(lines[: (height - 20) // 18]):
            canvas.text(x + 10, y + 24 + 18 * number, shorten(line, 13, width - 20), 13, MUTED)


def _caption(variant: dict[str, Any]) -> str:
    """`2.31x · 45.2 dB · 20 of 50 computed`; only the time for the reference."""
    if variant["status"] != "done":
        return "cannot run" if variant["error"] else ""
    if "speedup" not in variant:
        return f"{variant['seconds']:.2f} s"
    parts = [f"{variant['speedup']:.2f}x", noise(variant)]
    if variant["evaluations"]:
        parts.append(f"{variant['computed']} of {variant['evaluations']} computed")
    return " · ".join(parts)


def _draw_chart(
    canvas: Canvas, top: int, report: dict[str, Any], points: list[dict[str, Any]]
) -> None:
    """PSNR against speed-up: a dot for each point, a line for each value of y if x is numeric.

    Fewer steps without the cache are a grey line, where any were sampled.
    Points whose images are identical to the reference, with infinite PSNR, have a band above.
    """
    left, right = MARGIN + LEFT, min(canvas.width - RIGHT, MARGIN + LEFT + CHART_MAX_WIDTH)
    upper, lower = top + TOP, top + CHART_HEIGHT - BOTTOM
    fewer = [row for row in report["fewer_steps"] if row["status"] == "done"]
    charted = [*points, *fewer]
    psnrs = [each["psnr"] for each in charted if not each["identical"]]
    band = IDENTICAL_BAND if len(psnrs) < len(charted) else 0
    speedups = [1.0, *(each["speedup"] for each in charted)]
    x_scale = Scale(*_padded(min(speedups), max(speedups)), left, right)
    low, high = _padded(min(psnrs), max(psnrs)) if psnrs else (0.0, 1.0)
    y_scale = Scale(low, high, lower, upper + band)

    def position(point: dict[str, Any]) -> Point:
        y = upper + band / 2 if point["identical"] else y_scale(point["psnr"])
        return x_scale(point["speedup"]), y

    canvas.rectangle(left, upper, right, lower, PANEL)
    for value in x_scale.ticks():
        canvas.line([(x_scale(value), upper), (x_scale(value), lower)], GRID)
        canvas.text(x_scale(value), lower + 17, f"{value:g}x", 12, MUTED, "ms")
    for value in y_scale.ticks() if psnrs else ():
        canvas.line([(left, y_scale(value)), (right, y_scale(value))], GRID)
        canvas.text(left - 10, y_scale(value), f"{value:g}", 12, MUTED, "rm")
    if band:
        canvas.line([(left, upper + band), (right, upper + band)], GRID)
        canvas.text(left - 10, upper + band / 2, "identical", 12, MUTED, "rm")
    canvas.text(left, upper - 8, "PSNR against the uncached picture, dB", 12, MUTED)
    canvas.text((left + right) / 2, lower + 36, "speed-up", 12, MUTED, "ms")

    plain = [position(row) for row in sorted(fewer, key=lambda row: row["speedup"])]
    if len(plain) > 1:
        canvas.line(plain, MUTED, 1.6)
    for dot in plain:
        canvas.dot(*dot, DOT, MUTED)

    setting = report["x"]["setting"]
    numeric = all(isinstance(point["settings"][setting], (int, float)) for point in points)
    names = [""] if report["y"] is None else report["y"]["values"]
    legend = [(name, SERIES[row % len(SERIES)]) for row, name in enumerate(names)]
    if fewer:
        legend.append(("fewer steps, uncached", MUTED))
    for row in range(len(names)):
        dots = [position(point) for point in points if point["row"] == row]
        if numeric and len(dots) > 1:
            canvas.line(dots, SERIES[row % len(SERIES)], 1.6)
        for dot in dots:
            canvas.dot(*dot, DOT, SERIES[row % len(SERIES)])
    _draw_legend(canvas, right, upper - 8, legend)
    occupied = [_dot_box(position(each)) for each in charted]
    for point in points:
        label = report["x"]["values"][point["column"]]
        _label_dot(canvas, position(point), label, occupied, (left, upper, right, lower))


def _draw_legend(canvas: Canvas, right: float, y: float, names: Sequence[tuple[str, str]]) -> None:
    """Names with their colours, ending at `right`; the empty name of a single axis is left out."""
    for name, colour in reversed(names):
        if name:
            canvas.text(right, y, name, 12, TEXT, "rs")
            right -= text_width(name, 12) + 10
            canvas.dot(right, y - 4, DOT, colour)
            right -= 20


def _dot_box(dot: Point) -> Box:
    return dot[0] - DOT, dot[1] - DOT, dot[0] + DOT, dot[1] + DOT


def _padded(low: float, high: float) -> tuple[float, float]:
    """The range from `low` to `high` with padding at both ends, never empty."""
    padding = 0.1 * max(high - low, 0.02 * abs(high), 1e-3)
    return low - padding, high + padding


def _label_dot(canvas: Canvas, dot: Point, label: str, occupied: list[Box], bounds: Box) -> None:
    """Writes `label` next to `dot`, and adds its box to `occupied`.

    Of several positions the first is taken that lies in `bounds` and overlaps no box of
    `occupied`; without one, nothing is written.
    """
    x, y = dot
    width = text_width(label, 12)
    for dx, dy, anchor in ((9, 0, 0.0), (0, -13, 0.5), (0, 14, 0.5), (-9, 0, 1.0), (9, -13, 0.0)):
        start = x + dx - width * anchor
        box = (start, y + dy - 7, start + width, y + dy + 7)
        inside = box[0] >= bounds[0] and box[1] >= bounds[1]
        inside = inside and box[2] <= bounds[2] and box[3] <= bounds[3]
        if inside and not any(_overlap(box, other) for other in occupied):
            canvas.text(start, y + dy, label, 12, TEXT, "lm")
            occupied.append(box)
            return


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
