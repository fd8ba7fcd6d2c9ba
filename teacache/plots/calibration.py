"""A calibration's results: the fit of the coefficients, and error against speed-up."""

from __future__ import annotations

import math
from typing import Any

from PIL import Image

from .canvas import GRID, MUTED, PANEL, TEXT, Canvas, Point, Scale, shorten

WIDTH, HEIGHT = 1040, 380
LEFT, TOP, BOTTOM, PANEL_WIDTH, GAP = 70, 64, 318, 420, 90
SCATTER_COLOR, FIT_COLOR = "#9db7dd", "#3d6fb4"
PLANS_COLOR, FORECAST_COLOR, DEFAULT_COLOR = "#3fae7f", "#7b5ea7", "#d1495b"
NOTHING_TRIED = "one uncached run: nothing was tried"
HEADROOM = 1.08


def calibration_plot(data: dict[str, Any]) -> Image.Image:
    """Plots a calibration.

    Args:
        data: `Calibration.to_json()`.

    Returns:
        An RGB image of `WIDTH` x `HEIGHT` pixels.
    """
    canvas = Canvas(WIDTH, HEIGHT)
    title = f"{data['name']} · {data['family']} · {len(data['conditions']['sigmas']) - 1} steps"
    canvas.text(LEFT, 26, title, 17, TEXT)
    _draw_fit(canvas, LEFT, data)
    _draw_errors(canvas, LEFT + PANEL_WIDTH + GAP, data)
    return canvas.render()


def _draw_panel(canvas: Canvas, left: float, title: str, x_label: str) -> None:
    canvas.text(left, TOP - 12, title, 14, TEXT)
    canvas.rectangle(left, TOP, left + PANEL_WIDTH, BOTTOM, PANEL)
    canvas.text(left + PANEL_WIDTH / 2, BOTTOM + 44, x_label, 13, MUTED, "ms")


def _draw_fit(canvas: Canvas, left: float, data: dict[str, Any]) -> None:
    """The measured changes as a scatter plot, and the fitted polynomial as a curve."""
    quality = (
        f"refused: {data['refused']}".replace("R²", "R2")
        if data["refused"]
        else f"R2 {data['r2']:.3f}"
    )
    title = shorten(f"change of the residual · coefficients: {quality}", 14, PANEL_WIDTH)
    _draw_panel(canvas, left, title, "change of the indicator")
    pairs = data["scatter"]
    if not pairs:
        return
    low, high = min(x for x, _ in pairs), max(x for x, _ in pairs)
    top = max(max(y for _, y in pairs) * HEADROOM, 1e-9)
    x_scale = Scale(low, max(high, low + 1e-9), left + 8, left + PANEL_WIDTH - 8)
    y_scale = Scale(0.0, top, BOTTOM, TOP)
    _draw_ticks(canvas, left, x_scale, y_scale)
    for x, y in pairs:
        canvas.dot(x_scale(x), y_scale(y), 2.2, SCATTER_COLOR)
    if data["coefficients"]:
        xs = [low + (high - low) * i / 100 for i in range(101)]
        ys = [_polynomial(data["coefficients"], x) for x in xs]
        inside = [(x_scale(x), y_scale(y)) for x, y in zip(xs, ys, strict=True) if 0 <= y <= top]
        canvas.line(inside, FIT_COLOR, 2.2)


def _draw_ticks(canvas: Canvas, left: float, x_scale: Scale, y_scale: Scale) -> None:
    for value in x_scale.ticks():
        canvas.text(x_scale(value), BOTTOM + 18, f"{value:.3g}", 12, MUTED, "ms")
    for value in y_scale.ticks():
        canvas.line([(left, y_scale(value)), (left + PANEL_WIDTH, y_scale(value))], GRID)
        canvas.text(left - 8, y_scale(value) + 4, f"{value:.3g}", 12, MUTED, "rs")


def _draw_errors(canvas: Canvas, left: float, data: dict[str, Any]) -> None:
    """Latent error of what was kept and of the default settings, on a logarithmic scale.

    The worst run is drawn as a large dot, the mean of the runs as a small one; plans and forecasts
    have colours of their own.
    """
    _draw_panel(canvas, left, "error of the latent in the worst run, %", "speed-up")
    if data["default"] is None:
        middle = left + PANEL_WIDTH / 2, (TOP + BOTTOM) / 2
        canvas.text(*middle, NOTHING_TRIED, 14, MUTED, "ms")
        return
    steps = len(data["conditions"]["sigmas"]) - 1
    kept = [outcome for outcome in data["curve"] if outcome["worst"] > 0]
    default = [data["default"]] if data["default"]["worst"] > 0 else []
    if not kept:
        return
    errors = [100 * outcome[key] for outcome in [*kept, *default] for key in ("mean", "worst")]
    low, high = math.floor(math.log10(min(errors))), math.ceil(math.log10(max(errors)))
    fastest = max(steps / outcome["computed"] for outcome in [*kept, *default])
    x_scale = Scale(1.0, fastest * 1.05, left + 8, left + PANEL_WIDTH - 8)
    y_scale = Scale(low, max(high, low + 1), BOTTOM, TOP)
    for power in range(low, max(high, low + 1) + 1):
        canvas.line([(left, y_scale(power)), (left + PANEL_WIDTH, y_scale(power))], GRID)
        canvas.text(left - 8, y_scale(power) + 4, f"{10.0**power:g}", 12, MUTED, "rs")
    for value in x_scale.ticks():
        if value >= 1:
            canvas.text(x_scale(value), BOTTOM + 18, f"{value:g}x", 12, MUTED, "ms")

    def position(outcome: dict[str, Any], key: str) -> Point:
        return x_scale(steps / outcome["computed"]), y_scale(math.log10(100 * outcome[key]))

    canvas.line([position(outcome, "worst") for outcome in kept], MUTED, 1.2)
    y = TOP + 18
    for outcomes, color, label in (
        ([tried for tried in kept if not tried["forecast"]], PLANS_COLOR, "plan"),
        (
            [tried for tried in kept if tried["forecast"]],
            FORECAST_COLOR,
            "forecast, no plan better",
        ),
        (default, DEFAULT_COLOR, "default, before"),
    ):
        for outcome in outcomes:
            canvas.dot(*position(outcome, "worst"), 4.5, color)
            canvas.dot(*position(outcome, "mean"), 2.6, color)
        if outcomes:
            canvas.dot(left + 18, y - 4, 4.5, color)
            canvas.text(left + 30, y, f"{label} (small: mean)", 12, MUTED)
            y += 18


def _polynomial(coefficients: list[float], x: float) -> float:
    """The value at `x` of the polynomial with these coefficients, highest power first."""
    value = 0.0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value
