"""The timeline of a sampling run: what was skipped, why, and what each evaluation took."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

from PIL import Image

from .canvas import GRID, INK, MUTED, PANEL, Canvas, shorten, text_width, ticks, wrap

SKIPPED = "#3fae7f"
COMPUTED = "#3d6fb4"
FORCED = "#a9bdd6"
CAPPED = "#8b68bd"
TROUBLE = "#d1495b"
LIMIT = "#c77d0a"

COLORS = {
    "skipped": SKIPPED,
    "computed": COMPUTED,
    "forced": FORCED,
    "capped": CAPPED,
    "changed": TROUBLE,
}
"""Of the kinds of reasons (`report.ReasonKind`)."""
LEGEND = (
    (SKIPPED, "skipped"),
    (COMPUTED, "computed: over threshold, or planned"),
    (FORCED, "computed: first, last, out of range"),
    (CAPPED, "computed: max_skip"),
    (TROUBLE, "computed: input or branch changed"),
)

LEFT, RIGHT = 74, 26
MIN_WIDTH = 480
MAX_PITCH = 80.0
CURVE_TOP, CURVE_HEIGHT = 100, 150
CELLS_TOP, CELLS_HEIGHT = 266, 26
BARS_TOP, BARS_HEIGHT = 322, 84
LEGEND_TOP = 458
CURVE_LIMIT = 3.0  # of the threshold: what lies above is cut off and marked
BARS_LIMIT = 2.0  # of the median time


def color_of(record: dict[str, Any]) -> str:
    """The colour of an evaluation's cell, by what was decided and why."""
    return COLORS[record["kind"]]


@dataclass(frozen=True)
class Columns:
    """Where each of `count` evaluations stands across the picture."""

    width: int
    count: int

    @property
    def pitch(self) -> float:
        return min(MAX_PITCH, (self.width - LEFT - RIGHT) / max(1, self.count))

    def span(self, index: int) -> tuple[float, float]:
        """Left and right edge of an evaluation's cell."""
        gap = min(2.0, self.pitch * 0.16) if self.pitch >= 4 else 0.0
        left = LEFT + index * self.pitch
        return left + gap / 2, left + self.pitch - gap / 2

    def middle(self, index: int) -> float:
        return LEFT + (index + 0.5) * self.pitch


def timeline(report: dict[str, Any], width: int = 960) -> Image.Image:
    """A picture of `report` (`RunReport.to_json()`), `width` pixels wide (at least 480), RGB."""
    width = max(MIN_WIDTH, width)
    records = report["records"]
    legend = legend_rows(records, width)
    notes = [line for note in notes_of(report) for line in wrap(note, 13, width - LEFT - RIGHT)]
    top = LEGEND_TOP if records else CURVE_TOP
    height = top + 22 * len(legend) + 20 * len(notes) + 16
    canvas = Canvas(width, height)
    draw_title(canvas, report)
    if records:
        columns = Columns(width, len(records))
        planned = report["method"] == "planned"
        draw_curve(canvas, columns, records, 0.0 if planned else float(report["threshold"] or 0.0))
        draw_cells(canvas, columns, records)
        draw_bars(canvas, columns, records)
        draw_steps(canvas, columns, len(records) == report["steps"], BARS_TOP + BARS_HEIGHT)
        draw_legend(canvas, legend)
    for row, line in enumerate(notes):
        canvas.text(LEFT, top + 22 * len(legend) + 20 * row + 12, line, 13, INK)
    return canvas.finish()


def notes_of(report: dict[str, Any]) -> list[str]:
    said = [report["evidence"], report["advice"], *report["warnings"]]
    notes = [note for note in said if note]
    if not report["records"] and not notes:
        off = "The cache was off: threshold 0."
        notes = ["No evaluation was recorded." if report["threshold"] else off]
    return notes


def draw_title(canvas: Canvas, report: dict[str, Any]) -> None:
    count, skipped = len(report["records"]), report["skipped"]
    unit = "steps" if count == report["steps"] else "evaluations"
    speed = f"{report['estimated_speedup']:.2f}x"
    room = canvas.width - LEFT - RIGHT
    if count:
        canvas.text(canvas.width - RIGHT, 44, speed, 26, SKIPPED if skipped else MUTED, "rs")
        canvas.text(canvas.width - RIGHT, 66, "estimated speed-up", 12, MUTED, "rs")
        room -= 150
    plural = "step" if report["steps"] == 1 else "steps"
    head = f"{report['family_name']} · {report['steps']} {plural}"
    canvas.text(LEFT, 42, shorten(head, 22, room), 22)
    facts = f"{report['computed']} of {count} {unit} computed, {skipped} skipped"
    if skipped:
        facts += f" · {duration(report['saved_seconds'])} saved"
    if report["outcome"] not in ("done", "running"):
        facts += f" · {report['outcome']}"
    canvas.text(LEFT, 66, shorten(facts, 14, room), 14, MUTED)


def draw_curve(
    canvas: Canvas, columns: Columns, records: list[dict[str, Any]], threshold: float
) -> None:
    bottom = CURVE_TOP + CURVE_HEIGHT
    values = [finite(record["accumulated"]) for record in records]
    highest = max(values)
    top = min(highest, CURVE_LIMIT * threshold) if threshold > 0 else highest
    top = max(top, threshold) * 1.12 or 1.0
    panel(canvas, CURVE_TOP, CURVE_HEIGHT, top, "accumulated distance", "{:g}".format)

    def y(value: float) -> float:
        return bottom - min(value, top) / top * CURVE_HEIGHT

    before = (columns.middle(0), float(bottom))
    for index, (record, value) in enumerate(zip(records, values, strict=True)):
        here = (columns.middle(index), y(value))
        if index and value > 0:
            canvas.line([before, here], COMPUTED, min(1.6, max(0.4, columns.pitch * 0.2)))
        if not record["skipped"]:
            canvas.line([here, (here[0], bottom)], FORCED, 1.0)
            here = (here[0], float(bottom))
        before = here
    if threshold > 0:
        canvas.dashes(LEFT, canvas.width - RIGHT, y(threshold), LIMIT)
        right = canvas.width - RIGHT
        label = f"threshold {threshold:g}"
        canvas.text(right, CURVE_TOP - 7, label, 12, LIMIT, "rs")
        start = right - text_width(label, 12) - 32
        canvas.dashes(start, start + 24, CURVE_TOP - 11, LIMIT)
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


def draw_cells(canvas: Canvas, columns: Columns, records: list[dict[str, Any]]) -> None:
    for index, record in enumerate(records):
        left, right = columns.span(index)
        canvas.box(left, CELLS_TOP, right, CELLS_TOP + CELLS_HEIGHT, color_of(record), 2)
    canvas.text(LEFT - 10, CELLS_TOP + CELLS_HEIGHT / 2, "decision", 12, MUTED, "rm")


def draw_bars(canvas: Canvas, columns: Columns, records: list[dict[str, Any]]) -> None:
    bottom = BARS_TOP + BARS_HEIGHT
    times = [finite(record["seconds"]) for record in records]
    typical = statistics.median(times[1:]) if len(times) > 1 else times[0]
    computed = [t for t, record in zip(times, records, strict=True) if not record["skipped"]]
    typical = max(typical, statistics.median(computed) if computed else 0.0)
    top = min(max(times), BARS_LIMIT * typical) * 1.12 or 1.0
    scale, unit = (1e3, "ms") if top < 1 else (1.0, "s")
    panel(
        canvas, BARS_TOP, BARS_HEIGHT, top * scale, f"time per evaluation, {unit}", "{:g}".format, 3
    )
    for index, (record, seconds) in enumerate(zip(records, times, strict=True)):
        left, right = columns.span(index)
        height = max(1.0, min(seconds, top) / top * BARS_HEIGHT) if seconds else 0.0
        if height:
            canvas.box(left, bottom - height, right, bottom, color_of(record), 1)


def panel(
    canvas: Canvas, top: float, height: float, high: float, name: str, write: Any, count: int = 4
) -> None:
    """The ground of a chart from 0 to `high`: grid, values on the left, name inside."""
    right = canvas.width - RIGHT
    canvas.box(LEFT, top, right, top + height, PANEL)
    for value in ticks(high, count):
        y = top + height - value / high * height
        canvas.line([(LEFT, y), (right, y)], GRID, 1.0)
        canvas.text(LEFT - 10, y, write(round(value, 6)), 12, MUTED, "rm")
    canvas.text(LEFT, top - 7, name, 12, MUTED)


def draw_steps(canvas: Canvas, columns: Columns, steps: bool, y: float) -> None:
    every = max(1, int(ticks(columns.count, 10)[1]))
    for number in {1, *range(every, columns.count + 1, every)}:
        canvas.text(columns.middle(number - 1), y + 16, str(number), 12, MUTED, "ms")
    name = "step" if steps else "evaluation"
    canvas.text((LEFT + canvas.width - RIGHT) / 2, y + 33, name, 12, MUTED, "ms")


def legend_rows(records: list[dict[str, Any]], width: int) -> list[list[tuple[str, str]]]:
    """The legend's entries that occur, with counts, in rows that fit."""
    rows: list[list[tuple[str, str]]] = []
    x = float(width)
    for color, name in LEGEND:
        count = sum(color_of(record) == color for record in records)
        if not count:
            continue
        entry = (color, f"{count} {name}")
        need = entry_width(entry)
        if x + need > width - RIGHT + 22:
            rows.append([])
            x = LEFT
        rows[-1].append(entry)
        x += need
    return rows


def entry_width(entry: tuple[str, str]) -> float:
    return 18 + text_width(entry[1], 12) + 22


def draw_legend(canvas: Canvas, rows: list[list[tuple[str, str]]]) -> None:
    for number, row in enumerate(rows):
        x, y = float(LEFT), LEGEND_TOP + 22 * number
        for entry in row:
            canvas.box(x, y - 6, x + 12, y + 6, entry[0], 2)
            canvas.text(x + 18, y, entry[1], 12, INK, "lm")
            x += entry_width(entry)


def finite(value: float | None) -> float:
    """`value`, or 0 where there is none or it cannot be drawn."""
    return value if value is not None and math.isfinite(value) else 0.0


def duration(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if abs(seconds) < 1 else f"{seconds:.1f} s"
