"""Random damage to JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

Path = tuple[Any, ...]
JUNK: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 3, 4, 10**30, 1e308, 1.5, float("nan"), float("inf"), "", "x", "-10",
    "-20", [], {}, [[]], {"a": 1}, ["a", "b"], {"name": 5}, "{a|{b", "%x.y%", "Reroute",
    "PrimitiveNode", "GetNode", "SetNode", "workflow>x",
)  # fmt: skip


def paths(data: Any, path: Path = ()) -> Iterator[Path]:
    """The way to every part of `data`."""
    parts = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in parts:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from paths(value, (*path, key))


def part(data: Any, path: Path) -> Any:
    for key in path:
        data = data[key]
    return data


def mutated(data: dict[str, Any], random: Random) -> dict[str, Any]:
    """A copy of `data` with 1 to 20 parts removed, exchanged, repeated, moved or replaced."""
    data = json.loads(json.dumps(data))
    every = list(paths(data))
    for _ in range(random.choice([1, 1, 1, 2, 5, 20])):
        path, other = random.choice(every), random.choice(every)
        try:
            holder, key = part(data, path[:-1]), path[-1]
            copied = json.loads(json.dumps(part(data, other)))
            change = random.randrange(5)
            if change == 0:
                del holder[key]
            elif change == 1:
                holder[key] = random.choice(JUNK)
            elif change == 2:
                holder[key] = copied
            elif isinstance(holder, list) and change == 3:
                holder.append(copied)
            elif isinstance(holder, list):
                random.shuffle(holder)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    return data
