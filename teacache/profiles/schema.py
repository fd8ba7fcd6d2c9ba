"""Checked access to the fields of a JSON file. Errors are one line and say what is allowed."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from ..errors import ConfigError


class JsonObject:
    """A JSON object whose fields are checked as they are read.

    Args:
        data: the decoded object.
        source: name of the file, and of the field in it, that errors begin with.

    Raises:
        ConfigError: `data` is not an object. All methods raise it for a missing or unusable field.
    """

    def __init__(self, data: Any, source: str) -> None:
        self._source = source
        if not isinstance(data, dict):
            raise self.error("must be a JSON object")
        self._data: dict[str, Any] = data

    @classmethod
    def parse(cls, text: str, source: str) -> JsonObject:
        try:
            return cls(json.loads(text), source)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ConfigError(f"{source}: not JSON: {error}") from error

    def error(self, problem: str) -> ConfigError:
        """The error to raise for this object."""
        return ConfigError(f"{self._source}: {problem}")

    def __contains__(self, name: str) -> bool:
        return name in self._data

    def __getitem__(self, name: str) -> Any:
        if name not in self._data:
            raise self.error(f"{name} is missing")
        return self._data[name]

    def get(self, name: str, default: Any) -> Any:
        return self._data.get(name, default)

    def child(self, name: str) -> JsonObject:
        return JsonObject(self[name], f"{self._source}: {name}")

    def text(self, name: str) -> str:
        """A string that is not empty."""
        value = self[name]
        if not isinstance(value, str) or not value:
            raise self.error(f"{name} must be a text, not {value!r}")
        return value

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """A finite number from `low` to `high`; `default`, if given, replaces a missing field."""
        value = self[name] if default is None else self.get(name, default)
        if not is_finite_number(value) or not low <= value <= high:
            raise self.error(f"{name} must be a number from {low:g} to {high:g}, not {value!r}")
        return float(value)

    def integer(self, name: str, low: int, high: int) -> int:
        value = self[name]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(f"{name} must be a whole number from {low} to {high}, not {value!r}")
        return value

    def numbers(self, name: str, low: float = -math.inf, high: float = math.inf) -> list[float]:
        """A list of finite numbers from `low` to `high`."""
        values = self[name]
        if not isinstance(values, list) or not all(map(is_finite_number, values)):
            raise self.error(f"{name} must be a list of finite numbers")
        if not all(low <= value <= high for value in values):
            raise self.error(f"{name} must lie between {low:g} and {high:g}")
        return [float(value) for value in values]


def is_finite_number(value: Any) -> bool:
    """Whether `value` is a number in the range of a float; booleans are not."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max
