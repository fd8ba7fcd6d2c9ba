"""A calibration at a glance: the fit of the coefficients, and error against speed-up."""

from __future__ import annotations

import math
from typing import Any

from PIL import Image

from .canvas import GRID, INK, MUTED, PANEL, Canvas, Scale, shorten

WIDTH, HEIGHT = 1040, 380
LEFT, TOP, BOTTOM, PANEL_WIDTH, GAP = 70, 64, 318, 420, 90
DOTS, CURVE, PLANS, DEFAULT = "#9db7dd", "#3d6fb4", "#3fae7f", "#d1495b"
HEADROOM = 1.08


def calibration_picture(data: dict[str, Any]) -> Image.Image:
    """`Calibration.to_json()` as an RGB picture, `WIDTH` x `HEIGHT`."""
    canvas = Canvas(WIDTH, HEIGHT)
    title = f"{data['name']} · {data['family']} · {len(data['conditions']['sigmas']) - 1} steps"
    canvas.text(LEFT, 26, title, 17, INK)
    _draw_fit(canvas, LEFT, data)
    _draw_curve(canvas, LEFT + PANEL_WIDTH + GAP, data)
    return canvas.finish()


def _panel(canvas: Canvas, left: float, title: str, x_label: str) -> None:
    canvas.text(left, TOP - 12, title, 14, INK)
    canvas.box(left, TOP, left + PANEL_WIDTH, BOTTOM, PANEL)
    canvas.text(left + PANEL_WIDTH / 2, BOTTOM + 44, x_label, 13, MUTED, "ms")


def _draw_fit(canvas: Canvas, left: float, data: dict[str, Any]) -> None:
    told = (
        f"refused: {data['refused']}".replace("R²", "R2")
        if data["refused"]
        else f"R2 {data['r2']:.3f}"
    )
    title = shorten(f"change of the residual · coefficients: {told}", 14, PANEL_WIDTH)
    _panel(canvas, left, title, "change of the indicator")
    pairs = data["scatter"]
    if not pairs:
        return
    low, high = min(x for x, _ in pairs), max(x for x, _ in pairs)
    top = max(max(y for _, y in pairs) * HEADROOM, 1e-9)
    across = Scale(low, max(high, low + 1e-9), left + 8, left + PANEL_WIDTH - 8)
    down = Scale(0.0, top, BOTTOM, TOP)
    _marks(canvas, left, across, down)
    for x, y in pairs:
        canvas.dot(across(x), down(y), 2.2, DOTS)
    if data["coefficients"]:
        levels = [low + (high - low) * place / 100 for place in range(101)]
        values = [_polynomial(data["coefficients"], level) for level in levels]
        inside = [
            (across(level), down(value))
            for level, value in zip(levels, values, strict=True)
            if 0 <= value <= top
        ]
        canvas.line(inside, CURVE, 2.2)


def _marks(canvas: Canvas, left: float, across: Scale, down: Scale) -> None:
    for value in across.marks():
        canvas.text(across(value), BOTTOM + 18, f"{value:.3g}", 12, MUTED, "ms")
    for value in down.marks():
        canvas.line([(left, down(value)), (left + PANEL_WIDTH, down(value))], GRID)
        canvas.text(left - 8, down(value) + 4, f"{value:.3g}", 12, MUTED, "rs")


def _draw_curve(canvas: Canvas, left: float, data: dict[str, Any]) -> None:
    """Errors on a logarithmic scale, the worst run as the line, the mean as small dots."""
    _panel(canvas, left, "error of the latent in the worst run, %", "speed-up")
    steps = len(data["conditions"]["sigmas"]) - 1
    tried = [point for point in data["curve"] if point["worst"] > 0]
    before = [data["default"]] if data["default"]["worst"] > 0 else []
    if not tried:
        return
    errors = [100 * point[key] for point in [*tried, *before] for key in ("mean", "worst")]
    low, high = math.floor(math.log10(min(errors))), math.ceil(math.log10(max(errors)))
    fastest = max(steps / point["computed"] for point in [*tried, *before])
    across = Scale(1.0, fastest * 1.05, left + 8, left + PANEL_WIDTH - 8)
    down = Scale(low, max(high, low + 1), BOTTOM, TOP)
    for power in range(low, max(high, low + 1) + 1):
        canvas.line([(left, down(power)), (left + PANEL_WIDTH, down(power))], GRID)
        canvas.text(left - 8, down(power) + 4, f"{10.0**power:g}", 12, MUTED, "rs")
    for value in across.marks():
        if value >= 1:
            canvas.text(across(value), BOTTOM + 18, f"{value:g}x", 12, MUTED, "ms")

    def place(point: dict[str, Any], key: str) -> tuple[float, float]:
        return across(steps / point["computed"]), down(math.log10(100 * point[key]))

    canvas.line([place(point, "worst") for point in tried], PLANS, 2.2)
    for point in tried:
        canvas.dot(*place(point, "worst"), 4.5, PLANS)
        canvas.dot(*place(point, "mean"), 2.6, PLANS)
    for point in before:
        canvas.dot(*place(point, "worst"), 4.5, DEFAULT)
        canvas.dot(*place(point, "mean"), 2.6, DEFAULT)
    y = TOP + 18
    for color, label in ((PLANS, "plans (small: mean)"), (DEFAULT, "default, before")):
        canvas.dot(left + 18, y - 4, 4.5, color)
        canvas.text(left + 30, y, label, 12, MUTED)
        y += 18


def _polynomial(coefficients: list[float], x: float) -> float:
    value = 0.0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value
