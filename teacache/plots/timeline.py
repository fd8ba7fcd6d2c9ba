"""The timeline of a sampling run: which evaluations were skipped, why, and how long each took."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

from PIL import Image

from .canvas import GRID, MUTED, PANEL, TEXT, Canvas, shorten, text_width, ticks, wrap

SKIPPED = "#3fae7f"
COMPUTED = "#3d6fb4"
FORCED = "#a9bdd6"
CAPPED = "#8b68bd"
CHANGED = "#d1495b"
THRESHOLD = "#c77d0a"

COLORS = {
    "skipped": SKIPPED,
    "computed": COMPUTED,
    "forced": FORCED,
    "capped": CAPPED,
    "changed": CHANGED,
}
"""By kind of reason (`report.ReasonKind`)."""
LEGEND = (
    (SKIPPED, "skipped"),
    (COMPUTED, "computed: over threshold, or planned"),
    (FORCED, "computed: first, last, out of range"),
    (CAPPED, "computed: max_skip"),
    (CHANGED, "computed: input or branch changed"),
)

LEFT, RIGHT = 74, 26
MIN_WIDTH = 480
MAX_PITCH = 80.0
CURVE_TOP, CURVE_HEIGHT = 100, 150
CELLS_TOP, CELLS_HEIGHT = 266, 26
BARS_TOP, BARS_HEIGHT = 322, 84
LEGEND_TOP, LEGEND_LINE = 458, 22
NOTE_LINE = 20
NO_TIMES = "time per evaluation: not known on this device"
MAX_OVER_THRESHOLD = 3.0  # the curve's axis ends at this multiple of the threshold
MAX_OVER_MEDIAN = 2.0  # the bars' axis ends at this multiple of the median time


def color_of(record: dict[str, Any]) -> str:
    """The colour of an evaluation, by the kind of its reason."""
    return COLORS[record["kind"]]


@dataclass(frozen=True)
class Columns:
    """The horizontal positions of `count` evaluations in a plot of `width` pixels."""

    width: int
    count: int

    @property
    def pitch(self) -> float:
        """Distance between neighbouring evaluations, in pixels."""
        return min(MAX_PITCH, (self.width - LEFT - RIGHT) / max(1, self.count))

    def span(self, index: int) -> tuple[float, float]:
        """Left and right edge of an evaluation's cell, in pixels."""
        gap = min(2.0, self.pitch * 0.16) if self.pitch >= 4 else 0.0
        left = LEFT + index * self.pitch
        return left + gap / 2, left + self.pitch - gap / 2

    def middle(self, index: int) -> float:
        """The centre of an evaluation's cell, in pixels."""
        return LEFT + (index + 0.5) * self.pitch


def timeline(report: dict[str, Any], width: int = 960) -> Image.Image:
    """Plots a run: accumulated distance, decision and time of each evaluation.

    Args:
        report: `RunReport.to_json()`.
        width: In pixels, at least 480.

    Returns:
        An RGB image, as high as the legend and the report's notes need.
    """
    width = max(MIN_WIDTH, width)
    records = report["records"]
    legend = _legend_rows(records, width)
    notes = [line for note in _notes(report) for line in wrap(note, 13, width - LEFT - RIGHT)]
    notes_top = (LEGEND_TOP if records else CURVE_TOP) + LEGEND_LINE * len(legend)
    canvas = Canvas(width, notes_top + NOTE_LINE * len(notes) + 16)
    _draw_title(canvas, report)
    if records:
        columns = Columns(width, len(records))
        planned = report["method"] == "planned"
        threshold = 0.0 if planned else float(report["threshold"] or 0.0)
        _draw_curve(canvas, columns, records, threshold, _limit(report))
        _draw_cells(canvas, columns, records)
        _draw_bars(canvas, columns, records)
        axis_name = "step" if len(records) == report["steps"] else "evaluation"
        _draw_x_axis(canvas, columns, axis_name, BARS_TOP + BARS_HEIGHT)
        _draw_legend(canvas, legend)
    for row, line in enumerate(notes):
        canvas.text(LEFT, notes_top + NOTE_LINE * row + 12, line, 13, TEXT)
    return canvas.render()


def _notes(report: dict[str, Any]) -> list[str]:
    """The report's evidence, advice and warnings, or why there is nothing to plot."""
    notes = [note for note in (report["evidence"], report["advice"], *report["warnings"]) if note]
    if not report["records"] and not notes:
        off = "The cache was off: threshold 0."
        notes = ["No evaluation was recorded." if report["threshold"] else off]
    return notes


def _draw_title(canvas: Canvas, report: dict[str, Any]) -> None:
    count, skipped = len(report["records"]), report["skipped"]
    unit = "steps" if count == report["steps"] else "evaluations"
    speedup, saved = report["estimated_speedup"], report["saved_seconds"]
    available = canvas.width - LEFT - RIGHT
    if count and speedup is not None:
        speedup = f"{speedup:.2f}x"
        canvas.text(canvas.width - RIGHT, 44, speedup, 26, SKIPPED if skipped else MUTED, "rs")
        canvas.text(canvas.width - RIGHT, 66, "estimated speed-up", 12, MUTED, "rs")
        available -= 150
    plural = "step" if report["steps"] == 1 else "steps"
    title = f"{report['family_name']} · {report['steps']} {plural}"
    canvas.text(LEFT, 42, shorten(title, 22, available), 22)
    summary = f"{report['computed']} of {count} {unit} computed, {skipped} skipped"
    if skipped and saved is not None:
        summary += f" · {_format_duration(saved)} saved"
    if report["outcome"] not in ("done", "running"):
        summary += f" · {report['outcome']}"
    canvas.text(LEFT, 66, shorten(summary, 14, available), 14, MUTED)


def _limit(report: dict[str, Any]) -> str:
    """What the dashed line stands for: the threshold, or the number of steps that is wanted."""
    if report["wanted_steps"] is None:
        return f"threshold {report['threshold']:g}"
    return f"{report['preset']}: {report['wanted_steps']} of {report['steps']} steps"


def _draw_curve(
    canvas: Canvas,
    columns: Columns,
    records: list[dict[str, Any]],
    threshold: float,
    label: str,
) -> None:
    """The accumulated distance, which falls to 0 at each computed evaluation.

    The threshold is a dashed line, absent at 0; a triangle marks a value above the axis.
    """
    bottom = CURVE_TOP + CURVE_HEIGHT
    values = [_finite(record["accumulated"]) for record in records]
    highest = max(values)
    top = min(highest, MAX_OVER_THRESHOLD * threshold) if threshold > 0 else highest
    top = max(top, threshold) * 1.12 or 1.0
    _draw_panel(canvas, CURVE_TOP, CURVE_HEIGHT, top, "accumulated distance")

    def y(value: float) -> float:
        return bottom - min(value, top) / top * CURVE_HEIGHT

    previous = (columns.middle(0), float(bottom))
    for index, (record, value) in enumerate(zip(records, values, strict=True)):
        current = (columns.middle(index), y(value))
        if index and value > 0:
            canvas.line([previous, current], COMPUTED, min(1.6, max(0.4, columns.pitch * 0.2)))
        if not record["skipped"]:
            canvas.line([current, (current[0], bottom)], FORCED, 1.0)
            current = (current[0], float(bottom))
        previous = current
    if threshold > 0:
        canvas.dashed_line(LEFT, canvas.width - RIGHT, y(threshold), THRESHOLD)
        right = canvas.width - RIGHT
        canvas.text(right, CURVE_TOP - 7, label, 12, THRESHOLD, "rs")
        start = right - text_width(label, 12) - 32
        canvas.dashed_line(start, start + 24, CURVE_TOP - 11, THRESHOLD)
    for index, (record, value) in enumerate(zip(records, values, strict=True)):
        if record["distance"] is None and value == 0:
            continue
        x, color = columns.middle(index), color_of(record)
        if value > top:
            canvas.polygon(
                [(x - 4, CURVE_TOP + 8), (x + 4, CURVE_TOP + 8), (x, CURVE_TOP + 1)], color
            )
        else:
            canvas.dot(x, y(value), min(3.4, max(0.8, columns.pitch * 0.3)), color)


def _draw_cells(canvas: Canvas, columns: Columns, records: list[dict[str, Any]]) -> None:
    """A cell for each evaluation in the colour of its decision."""
    for index, record in enumerate(records):
        left, right = columns.span(index)
        canvas.rectangle(left, CELLS_TOP, right, CELLS_TOP + CELLS_HEIGHT, color_of(record), 2)
    canvas.text(LEFT - 10, CELLS_TOP + CELLS_HEIGHT / 2, "decision", 12, MUTED, "rm")


def _draw_bars(canvas: Canvas, columns: Columns, records: list[dict[str, Any]]) -> None:
    """A bar for the time of each evaluation, where the device's times are known."""
    bottom = BARS_TOP + BARS_HEIGHT
    if any(record["seconds"] is None for record in records):
        canvas.rectangle(LEFT, BARS_TOP, canvas.width - RIGHT, bottom, PANEL)
        canvas.text(LEFT, BARS_TOP - 7, NO_TIMES, 12, MUTED)
        return
    times = [_finite(record["seconds"]) for record in records]
    median = statistics.median(times[1:]) if len(times) > 1 else times[0]
    computed = [t for t, record in zip(times, records, strict=True) if not record["skipped"]]
    median = max(median, statistics.median(computed) if computed else 0.0)
    top = min(max(times), MAX_OVER_MEDIAN * median) * 1.12 or 1.0
    scale, unit = (1e3, "ms") if top < 1 else (1.0, "s")
    _draw_panel(canvas, BARS_TOP, BARS_HEIGHT, top * scale, f"time per evaluation, {unit}", 3)
    for index, (record, seconds) in enumerate(zip(records, times, strict=True)):
        left, right = columns.span(index)
        height = max(1.0, min(seconds, top) / top * BARS_HEIGHT) if seconds else 0.0
        if height:
            canvas.rectangle(left, bottom - height, right, bottom, color_of(record), 1)


def _draw_panel(
    canvas: Canvas, top: float, height: float, high: float, title: str, tick_count: int = 4
) -> None:
    """The background of a chart with values from 0 to `high`: title, grid and tick labels."""
    right = canvas.width - RIGHT
    canvas.rectangle(LEFT, top, right, top + height, PANEL)
    for value in ticks(high, tick_count):
        y = top + height - value / high * height
        canvas.line([(LEFT, y), (right, y)], GRID, 1.0)
        canvas.text(LEFT - 10, y, f"{round(value, 6):g}", 12, MUTED, "rm")
    canvas.text(LEFT, top - 7, title, 12, MUTED)


def _draw_x_axis(canvas: Canvas, columns: Columns, name: str, y: float) -> None:
    """The numbers of the evaluations, counted from 1, and the axis's name, below `y`."""
    interval = max(1, int(ticks(columns.count, 10)[1]))
    for number in {1, *range(interval, columns.count + 1, interval)}:
        canvas.text(columns.middle(number - 1), y + 16, str(number), 12, MUTED, "ms")
    canvas.text((LEFT + canvas.width - RIGHT) / 2, y + 33, name, 12, MUTED, "ms")


def _legend_rows(records: list[dict[str, Any]], width: int) -> list[list[tuple[str, str]]]:
    """The colours that occur with their labels and counts, broken into rows of the plot's width."""
    rows: list[list[tuple[str, str]]] = []
    x = float(width)
    for color, name in LEGEND:
        count = sum(color_of(record) == color for record in records)
        if not count:
            continue
        label = f"{count} {name}"
        if x + _entry_width(label) > width - RIGHT + 22:
            rows.append([])
            x = LEFT
        rows[-1].append((color, label))
        x += _entry_width(label)
    return rows


def _entry_width(label: str) -> float:
    return 18 + text_width(label, 12) + 22


def _draw_legend(canvas: Canvas, rows: list[list[tuple[str, str]]]) -> None:
    for number, row in enumerate(rows):
        x, y = float(LEFT), LEGEND_TOP + LEGEND_LINE * number
        for color, label in row:
            canvas.rectangle(x, y - 6, x + 12, y + 6, color, 2)
            canvas.text(x + 18, y, label, 12, TEXT, "lm")
            x += _entry_width(label)


def _finite(value: float | None) -> float:
    """`value`, or 0 for None, NaN and infinities, which cannot be drawn."""
    return value if value is not None and math.isfinite(value) else 0.0


def _format_duration(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if abs(seconds) < 1 else f"{seconds:.1f} s"
