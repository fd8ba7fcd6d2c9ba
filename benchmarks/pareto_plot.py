"""The picture: PSNR against speed-up, one line per method, in two panels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.fronts import REFERENCES, Point, curves
from benchmarks.variants import OURS, UNCACHED, variants

TITLES = {
    "uncached": "against the uncached picture, same settings",
    "converged": "against the converged picture",
}
OURS_COLOUR, OURS_OTHER = "#d62728", "#f4a09c"
GREYS = {"fewer steps": "#111111", "even skipping": "#8c8c8c"}
COLOURS = (
    "#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f00", "#17becf", "#ff7f0e",
    "#4b5fa5", "#00796b", "#b8860b", "#000080",
)  # fmt: skip
MARKERS = "osD^vP*Xph<>d"
LINES = ("-", "--", ":")
MAIN = f"{OURS}: forecast"
FASTEST = 6.0


def styles(methods: list[str]) -> dict[str, dict[str, Any]]:
    """Ours thick and red, other modes of ours pale, fewer steps black, every peer its colour."""
    found: dict[str, dict[str, Any]] = {}
    fewer = ours = peers = 0
    for method in methods:
        if method in UNCACHED.values():
            continue
        style: dict[str, Any] = {"linewidth": 1.2, "markersize": 4.5, "zorder": 3}
        if method == MAIN:
            style |= {"color": OURS_COLOUR, "linewidth": 2.8, "markersize": 7, "marker": "o"}
            style["zorder"] = 5
        elif method.startswith(OURS):
            style |= {"color": OURS_OTHER, "marker": MARKERS[ours % len(MARKERS)], "zorder": 2}
            ours += 1
        elif method.startswith("fewer steps"):
            style |= {"color": GREYS["fewer steps"], "marker": ".", "linestyle": LINES[fewer % 3]}
            fewer += 1
        elif method in GREYS:
            style |= {"color": GREYS[method], "marker": ".", "linestyle": "-."}
        else:
            style["color"] = COLOURS[peers % len(COLOURS)]
            style["marker"] = MARKERS[peers % len(MARKERS)]
            peers += 1
        found[method] = style
    return found


def plot(found: list[Point], title: str, file: Path) -> None:
    """Every measured point, those of one method joined."""
    figure, panels = plt.subplots(1, 2, figsize=(15, 8.2), sharex=True, layout="constrained")
    methods = list(dict.fromkeys(point.method for point in found if not point.is_uncached))
    every = [variant.method for variant in variants()]  # so that each looks the same on all models
    look = styles(list(dict.fromkeys([*every, *methods])))
    handles: dict[str, Any] = {}
    for panel, reference in zip(panels, REFERENCES, strict=True):
        shown: list[tuple[float, float]] = []
        for method, curve in curves(found, reference).items():
            (handles[method],) = panel.plot(*zip(*curve, strict=True), **look[method])
            shown += curve
        if reference == "converged":
            level = next(point.against[reference].mean for point in found if point.is_uncached)
            panel.axhline(level, color="#555555", linewidth=1, linestyle=(0, (1, 2)))
            panel.annotate("no cache", (0.96, level), va="bottom", fontsize=10, color="#555555")
        panel.set_xscale("log")
        panel.set_title(TITLES[reference], fontsize=13)
        panel.set_xlabel("speed-up over the uncached run of the same host", fontsize=12)
        panel.grid(alpha=0.25, which="both")
        frame(panel, shown)
    panels[0].set_ylabel("PSNR, mean (dB)", fontsize=12)
    figure.suptitle(title, fontsize=14)
    ordered = sorted(methods, key=lambda method: (not method.startswith(OURS), method))
    figure.legend(
        [handles[method] for method in ordered], ordered, loc="outside lower center", ncols=5,
        fontsize=11, frameon=False,
    )  # fmt: skip
    figure.savefig(file, dpi=80)
    plt.close(figure)


def frame(panel: Any, shown: list[tuple[float, float]]) -> None:
    """The part that matters: from no gain to `FASTEST`, and without lone failures below."""
    fastest = min(FASTEST, max(speed for speed, _ in shown) * 1.05)
    panel.set_xlim(0.95, fastest)
    ticks = [1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6]
    panel.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick <= fastest]))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    values = sorted(value for speed, value in shown if speed <= fastest)
    low = values[len(values) // 20]
    highest = [value for speed, value in shown if speed >= 1.1]
    panel.set_ylim(low - 2, min(max(highest or values) + 2, values[-1] + 2))
