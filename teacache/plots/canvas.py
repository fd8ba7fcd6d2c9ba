"""A drawing surface with antialiased shapes and sharp text, and axis scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]
Color = str
SUPERSAMPLING = 3  # shapes are drawn at this multiple of the image's size, then reduced

TEXT = "#1f2933"
MUTED = "#66727f"
GRID = "#e4e8ec"
BACKGROUND = "#ffffff"
PANEL = "#f7f8fa"


@lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's default font at `size` pixels."""
    return ImageFont.load_default(size)


class Canvas:
    """An RGB image to draw on; all coordinates and lengths are pixels of the rendered image.

    Text is drawn over the shapes, when `render` is called.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        size = (width * SUPERSAMPLING, height * SUPERSAMPLING)
        self._image = Image.new("RGB", size, BACKGROUND)
        self._texts: list[tuple[Point, str, int, Color, str]] = []

    @cached_property
    def _draw(self) -> ImageDraw.ImageDraw:
        return ImageDraw.Draw(self._image)

    def rectangle(
        self, x0: float, y0: float, x1: float, y1: float, color: Color, radius: float = 0
    ) -> None:
        """A filled rectangle from (x0, y0) to (x1, y1), exclusive, with rounded corners."""
        corners = [round(v * SUPERSAMPLING) for v in (x0, y0, x1, y1)]
        corners[2] = max(corners[0], corners[2] - 1)
        corners[3] = max(corners[1], corners[3] - 1)
        limit = min(corners[2] - corners[0], corners[3] - corners[1]) / 2
        self._draw.rounded_rectangle(corners, min(radius * SUPERSAMPLING, limit), fill=color)

    def line(self, points: Sequence[Point], color: Color, width: float = 1.0) -> None:
        """A line through `points`."""
        scaled = [(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in points]
        width = max(1, round(width * SUPERSAMPLING))
        self._draw.line(scaled, fill=color, width=width, joint="curve")

    def dashed_line(self, x0: float, x1: float, y: float, color: Color, dash: float = 6) -> None:
        """A horizontal dashed line."""
        x = x0
        while x < x1:
            self.line([(x, y), (min(x + dash, x1), y)], color, 1.5)
            x += dash * 1.7

    def dot(self, x: float, y: float, radius: float, color: Color) -> None:
        """A filled circle around (x, y)."""
        x, y, radius = x * SUPERSAMPLING, y * SUPERSAMPLING, radius * SUPERSAMPLING
        self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        """A filled polygon with corners at `points`."""
        self._draw.polygon([(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in points], fill=color)

    def text(
        self, x: float, y: float, text: str, size: int = 13, color: Color = TEXT, anchor: str = "ls"
    ) -> None:
        """One line of text at (x, y); `anchor` is Pillow's (`ls`: left end of the baseline)."""
        self._texts.append(((x, y), text, size, color, anchor))

    def render(self) -> Image.Image:
        """The image with all shapes and texts drawn so far."""
        image = self._image.reduce(SUPERSAMPLING)
        draw = ImageDraw.Draw(image)
        for position, text, size, color, anchor in self._texts:
            draw.text(position, text, fill=color, font=font(size), anchor=anchor)
        return image


def text_width(text: str, size: int) -> float:
    """The width of `text` in pixels at a font size in pixels."""
    return float(font(size).getlength(text))


def wrap(text: str, size: int, width: float) -> list[str]:
    """Breaks `text` at spaces into lines of at most `width` pixels; a longer word is not broken."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def shorten(text: str, size: int, width: float) -> str:
    """Cuts `text` to at most `width` pixels, ending in an ellipsis if anything was cut."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def ticks(high: float, count: int = 4) -> list[float]:
    """About `count` evenly spaced round values from 0 to at most `high`, which is positive."""
    rough = high / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    return [step * i for i in range(int(high / step * 1.0001) + 1)]


@dataclass(frozen=True)
class Scale:
    """A linear axis: maps values from `low` to `high` to pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel coordinate of `value`."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Evenly spaced round values between `low` and `high`."""
        steps = ticks(self.high - self.low)
        step = steps[1] if len(steps) > 1 else self.high - self.low
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]
