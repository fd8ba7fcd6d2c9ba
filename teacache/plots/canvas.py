"""A drawing surface with smooth shapes and crisp text, and the scale of an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]
Color = str
SMOOTH = 3  # shapes are drawn this much larger, then reduced

INK = "#1f2933"
MUTED = "#66727f"
GRID = "#e4e8ec"
PAPER = "#ffffff"
PANEL = "#f7f8fa"


@lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


class Canvas:
    """Shapes in pixels of the finished picture; text goes on top when `finish` is called."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._image = Image.new("RGB", (width * SMOOTH, height * SMOOTH), PAPER)
        self._texts: list[tuple[Point, str, int, Color, str]] = []

    @cached_property
    def _draw(self) -> ImageDraw.ImageDraw:
        return ImageDraw.Draw(self._image)

    def box(
        self, x0: float, y0: float, x1: float, y1: float, color: Color, radius: float = 0
    ) -> None:
        """A filled rectangle from (x0, y0) up to (x1, y1)."""
        corners = [round(v * SMOOTH) for v in (x0, y0, x1, y1)]
        corners[2] = max(corners[0], corners[2] - 1)
        corners[3] = max(corners[1], corners[3] - 1)
        limit = min(corners[2] - corners[0], corners[3] - corners[1]) / 2
        self._draw.rounded_rectangle(corners, min(radius * SMOOTH, limit), fill=color)

    def line(self, points: Sequence[Point], color: Color, width: float = 1.0) -> None:
        scaled = [(x * SMOOTH, y * SMOOTH) for x, y in points]
        self._draw.line(scaled, fill=color, width=max(1, round(width * SMOOTH)), joint="curve")

    def dashes(self, x0: float, x1: float, y: float, color: Color, dash: float = 6) -> None:
        """A horizontal dashed line."""
        x = x0
        while x < x1:
            self.line([(x, y), (min(x + dash, x1), y)], color, 1.5)
            x += dash * 1.7

    def dot(self, x: float, y: float, radius: float, color: Color) -> None:
        x, y, radius = x * SMOOTH, y * SMOOTH, radius * SMOOTH
        self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        self._draw.polygon([(x * SMOOTH, y * SMOOTH) for x, y in points], fill=color)

    def text(
        self, x: float, y: float, text: str, size: int = 13, color: Color = INK, anchor: str = "ls"
    ) -> None:
        """One line at (x, y); `anchor` as Pillow names it (`ls`: left, baseline)."""
        self._texts.append(((x, y), text, size, color, anchor))

    def finish(self) -> Image.Image:
        image = self._image.reduce(SMOOTH)
        draw = ImageDraw.Draw(image)
        for place, text, size, color, anchor in self._texts:
            draw.text(place, text, fill=color, font=font(size), anchor=anchor)
        return image


def text_width(text: str, size: int) -> float:
    return float(font(size).getlength(text))


def wrap(text: str, size: int, width: float) -> list[str]:
    """`text` in lines of at most `width` pixels, broken at spaces."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def shorten(text: str, size: int, width: float) -> str:
    """`text`, cut with an ellipsis to at most `width` pixels."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def ticks(high: float, count: int = 4) -> list[float]:
    """About `count` round values from 0 to at most `high` (above 0)."""
    rough = high / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    return [step * i for i in range(int(high / step * 1.0001) + 1)]


@dataclass(frozen=True)
class Scale:
    """From values between `low` and `high` to pixels between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def marks(self) -> list[float]:
        """Round values within."""
        steps = ticks(self.high - self.low)
        step = steps[1] if len(steps) > 1 else self.high - self.low
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]
