"""Plots of quality against speed-up: a line per method, a panel per measure and reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.fronts import MEASURES, REFERENCES, Point, curves
from benchmarks.grounds import GROUNDS
from benchmarks.testbeds import UNCACHED
from benchmarks.variants import FEWER, OURS, OURS_DEFAULT, variants

TITLES = {
    "uncached": "against the uncached picture, same settings",
    "converged": "against the converged picture",
}
LABELS = {
    "mean": "PSNR, mean (dB)",
    "ssim": "1 - SSIM, mean",
    "lpips": "LPIPS, mean",
}
OURS_COLOUR, OURS_OTHER = "#d62728", "#f4a09c"
GREYS = {FEWER: "#111111", "even skipping": "#8c8c8c"}
COLOURS = (
    "#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f00", "#17becf", "#ff7f0e",
    "#4b5fa5", "#00796b", "#b8860b", "#000080",
)  # fmt: skip
MARKERS = "osD^vP*Xph<>d"
LINES = ("-", "--", ":")
PREDICTOR_LINES = {"reuse": "-", "linear": "--", "damped": "-."}
MAX_SPEEDUP = 6.0
MIN_DISTANCE = 1e-6
"""Smaller distances are drawn as this one, since the axis is logarithmic."""

Styles = dict[str, dict[str, Any]]
"""Keyword arguments of `Axes.plot`, by method."""


def styles(methods: list[str]) -> Styles:
    """Line styles of methods.

    Our default mode is thick and red, our other modes pale red, fewer steps black. Each other
    method has its own colour. Our ablations have one colour for each pair of cached value and
    indicator, and a line style for each predictor.
    """
    result: Styles = {}
    fewer = ours = peers = 0
    parts: list[str] = []
    for method in methods:
        if method in UNCACHED.values():
            continue
        style: dict[str, Any] = {"linewidth": 1.2, "markersize": 4.5, "zorder": 3}
        part, _, predictor = method.rpartition(", ")
        if method == OURS_DEFAULT:
            style |= {"color": OURS_COLOUR, "linewidth": 2.8, "markersize": 7, "marker": "o"}
            style["zorder"] = 5
        elif method.startswith(OURS) and predictor in PREDICTOR_LINES:
            if part not in parts:
                parts.append(part)
            colour = COLOURS[-1 - parts.index(part) % len(COLOURS)]
            style |= {"color": colour, "marker": "o", "linestyle": PREDICTOR_LINES[predictor]}
        elif method.startswith(OURS):
            style |= {"color": OURS_OTHER, "marker": MARKERS[ours % len(MARKERS)], "zorder": 2}
            ours += 1
        elif method.startswith(FEWER):
            style |= {"color": GREYS[FEWER], "marker": ".", "linestyle": LINES[fewer % 3]}
            fewer += 1
        elif method in GREYS:
            style |= {"color": GREYS[method], "marker": ".", "linestyle": "-."}
        else:
            style["color"] = COLOURS[peers % len(COLOURS)]
            style["marker"] = MARKERS[peers % len(MARKERS)]
            peers += 1
        result[method] = style
    return result


def plot(points: list[Point], measures: Sequence[str], title: str, file: Path) -> None:
    """Draw all points, connected by method, and save the figure.

    Args:
        points: of all variants.
        measures: names in `MEASURES`; a row of panels for each.
        title: of the figure.
        file: where the PNG is saved.
    """
    figure, panels = plt.subplots(
        len(measures), len(REFERENCES), figsize=(15, 2.6 + 5.6 * len(measures)), sharex=True,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    methods = list(dict.fromkeys(point.method for point in points if not point.is_uncached))
    known = [variant.method for variant in variants(GROUNDS[0])]  # the same styles in all figures
    style_of = styles(list(dict.fromkeys([*known, *methods])))
    handles: dict[str, Any] = {}
    for measure, line in zip(measures, panels, strict=True):
        for reference, panel in zip(REFERENCES, line, strict=True):
            handles |= draw_panel(panel, points, reference, measure, style_of)
        line[0].set_ylabel(LABELS[measure], fontsize=12)
    for reference, top, bottom in zip(REFERENCES, panels[0], panels[-1], strict=True):
        top.set_title(TITLES[reference], fontsize=13)
        bottom.set_xlabel("speed-up over the uncached run of the same host", fontsize=12)
    figure.suptitle(title, fontsize=14)
    ordered = sorted(methods, key=lambda method: (not method.startswith(OURS), method))
    figure.legend(
        [handles[method] for method in ordered], ordered, loc="outside lower center", ncols=5,
        fontsize=11, frameon=False,
    )  # fmt: skip
    figure.savefig(file, dpi=80)
    plt.close(figure)


def draw_panel(
    panel: Any,
    points: list[Point],
    reference: str,
    measure: str,
    style_of: Styles,
) -> dict[str, Any]:
    """Draw one panel.

    Returns:
        The lines by method, for the legend.
    """
    handles: dict[str, Any] = {}
    shown: list[tuple[float, float]] = []
    for method, curve in curves(points, reference, measure).items():
        positions = [(speed, axis_value(value, measure)) for speed, value in curve]
        (handles[method],) = panel.plot(*zip(*positions, strict=True), **style_of[method])
        shown += positions
    if reference == "converged":
        uncached = next(point.against[reference] for point in points if point.is_uncached)
        value = MEASURES[measure](uncached)
        assert value is not None
        level = axis_value(value, measure)
        panel.axhline(level, color="#555555", linewidth=1, linestyle=(0, (1, 2)))
        panel.annotate("no cache", (0.96, level), va="bottom", fontsize=10, color="#555555")
    panel.set_xscale("log")
    panel.grid(alpha=0.25, which="both")
    set_limits(panel, shown, measure)
    return handles


def axis_value(value: float, measure: str) -> float:
    """PSNR, or for the other measures the distance from a perfect value, for a log axis."""
    if measure == "mean":
        return value
    return max(1 - value if measure == "ssim" else -value, MIN_DISTANCE)


def set_limits(panel: Any, shown: list[tuple[float, float]], measure: str) -> None:
    """Limit the axes to speed-ups up to `MAX_SPEEDUP`, without outliers; better is up."""
    fastest = min(MAX_SPEEDUP, max(speed for speed, _ in shown) * 1.05)
    panel.set_xlim(0.95, fastest)
    ticks = [1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6]
    panel.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick <= fastest]))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    values = sorted(value for speed, value in shown if speed <= fastest)
    gained = [value for speed, value in shown if speed >= 1.1] or values
    if measure == "mean":
        low, high = values[len(values) // 20] - 2, min(max(gained), values[-1]) + 2
    else:
        panel.set_yscale("log")
        low, high = values[-1 - len(values) // 20] * 1.3, max(min(gained), values[0]) / 1.3
    panel.set_ylim(low, high)
