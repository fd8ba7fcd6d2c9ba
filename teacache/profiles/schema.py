"""The fields of a JSON file; what is unusable is refused in one line that says what is allowed."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from ..errors import ConfigError


class Fields:
    """The object in one file. where: what messages begin with."""

    def __init__(self, data: Any, where: str) -> None:
        self._where = where
        if not isinstance(data, dict):
            raise self.refuse("must be a JSON object")
        self._data: dict[str, Any] = data

    @classmethod
    def of_text(cls, text: str, where: str) -> Fields:
        try:
            return cls(json.loads(text), where)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ConfigError(f"{where}: not JSON: {error}") from error

    def refuse(self, told: str) -> ConfigError:
        return ConfigError(f"{self._where}: {told}")

    def __contains__(self, name: str) -> bool:
        return name in self._data

    def __getitem__(self, name: str) -> Any:
        if name not in self._data:
            raise self.refuse(f"{name} is missing")
        return self._data[name]

    def get(self, name: str, default: Any) -> Any:
        return self._data.get(name, default)

    def part(self, name: str) -> Fields:
        """The object in a field."""
        return Fields(self[name], f"{self._where}: {name}")

    def text(self, name: str) -> str:
        value = self[name]
        if not isinstance(value, str) or not value:
            raise self.refuse(f"{name} must be a text, not {value!r}")
        return value

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        value = self[name] if default is None else self.get(name, default)
        if not finite(value) or not low <= value <= high:
            raise self.refuse(f"{name} must be a number from {low:g} to {high:g}, not {value!r}")
        return float(value)

    def whole(self, name: str, low: int, high: int) -> int:
        value = self[name]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.refuse(f"{name} must be a whole number from {low} to {high}, not {value!r}")
        return value

    def numbers(self, name: str, low: float = -math.inf, high: float = math.inf) -> list[float]:
        values = self[name]
        if not isinstance(values, list) or not all(map(finite, values)):
            raise self.refuse(f"{name} must be a list of finite numbers")
        if not all(low <= value <= high for value in values):
            raise self.refuse(f"{name} must lie between {low:g} and {high:g}")
        return [float(value) for value in values]


def finite(value: Any) -> bool:
    """Whether `value` is a number that a float can hold."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max
