"""The settings of `TeaCacheConfig` that a comparison varies: one or two, over lists of values."""

from __future__ import annotations

import re
import typing
from dataclasses import dataclass, replace

from ..config import TeaCacheConfig, check_setting
from ..errors import ConfigError, listing

Value = float | int | str | bool | None
MAX_POINTS = 64
RECOMMENDED = "auto"
"""How `None` is written, which leaves a setting to the model."""
AS_CONFIGURED = "cached"
"""The label of a point without settings."""
EXAMPLE = "rel_l1_thresh=0.1,0.2,0.4"
DECIDED = ("rel_l1_thresh", "mode", "cached", "indicator", "predictor")
"""The settings that a preset decides."""


@dataclass(frozen=True)
class Axis:
    """A setting and the values that it takes, at least one and no two alike."""

    setting: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Point:
    """Some settings of the cache, none for its settings as configured.

    Args:
        column, row: of the grid: along x and along y, from 0.
    """

    settings: tuple[tuple[str, Value], ...]
    column: int = 0
    row: int = 0

    @property
    def label(self) -> str:
        """`rel_l1_thresh 0.1, mode forecast`."""
        written = ", ".join(f"{setting} {shown(value)}" for setting, value in self.settings)
        return written or AS_CONFIGURED

    @property
    def implied(self) -> dict[str, Value]:
        """Settings to reset so that these ones are in force: a preset, or a threshold of 0."""
        names = [setting for setting, _ in self.settings]
        if "preset" in names:
            return {"rel_l1_thresh": None}
        return {"preset": "auto"} if set(names) & set(DECIDED) else {}

    def config(self, base: TeaCacheConfig) -> TeaCacheConfig:
        """`base` with these settings; `ConfigError` where they do not go together."""
        return replace(base, **self.implied, **dict(self.settings))  # type: ignore[arg-type]


def shown(value: Value) -> str:
    """A value as it is written on the command line and in pictures."""
    if value is None:
        return RECOMMENDED
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def parse_axis(text: str, source: str) -> Axis:
    """`SETTING=V1,V2` or `SETTING: V1, V2` as an axis.

    Raises `ConfigError` that begins with `source` for an unknown setting, an empty or repeated
    value, and a value that the setting does not take.
    """
    setting, separator, listed = re.match(r"([^=:]*)([=:]?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    setting = setting.strip()
    if not separator or not setting:
        raise ConfigError(f"{source}: write a setting and its values, such as {EXAMPLE}")
    try:
        check_setting(setting)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    return Axis(setting, parse_values(setting, listed, source))


def parse_values(setting: str, listed: str, source: str) -> tuple[Value, ...]:
    """The values of `setting` in a list with commas, each checked alone; errors as above."""
    if not listed.strip():
        raise ConfigError(f"{source}: no values for {setting}; separate them by commas")
    values: list[Value] = []
    for item in listed.split(","):
        if not item.strip():
            raise ConfigError(f"{source}: an empty value in {listed.strip()!r}")
        value = parse_value(setting, item.strip())
        try:
            TeaCacheConfig(**{setting: value})  # type: ignore[arg-type]
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None
        if value in values:
            raise ConfigError(f"{source}: {setting} {shown(value)} is listed twice")
        values.append(value)
    return tuple(values)


def parse_value(setting: str, text: str) -> Value:
    """`text` in the type of the setting; left as it is where it has another, for the check."""
    hint = typing.get_type_hints(TeaCacheConfig)[setting]
    kinds = typing.get_args(hint) or (hint,)
    if type(None) in kinds and text == RECOMMENDED:
        return None
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    return text


def grid_points(x: Axis, y: Axis | None = None) -> list[Point]:
    """Every value of `x`, once for each value of `y`, row by row.

    Raises `ConfigError` for the same setting on both axes, for a preset with what it decides, and
    for more than `MAX_POINTS`.
    """
    if y is not None and y.setting == x.setting:
        raise ConfigError(f"x and y are both {x.setting}: put another setting on one of them")
    both = {x.setting} if y is None else {x.setting, y.setting}
    decided = both & set(DECIDED)
    if "preset" in both and decided:
        raise ConfigError(f"a preset decides {listing(decided)} as well: vary one of the two")
    rows: tuple[Value, ...] = y.values if y is not None else (None,)
    count = len(x.values) * len(rows)
    if count > MAX_POINTS:
        values = listing(map(shown, x.values))
        raise ConfigError(f"{count} points are too many: at most {MAX_POINTS} (x: {values})")
    points = []
    for row, of_y in enumerate(rows):
        for column, of_x in enumerate(x.values):
            settings: tuple[tuple[str, Value], ...] = ((x.setting, of_x),)
            if y is not None:
                settings += ((y.setting, of_y),)
            points.append(Point(settings, column, row))
    return points
