"""Texts that the editor changes when a prompt is queued: file names and dynamic prompts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from .scene import Node
from .widgets import MISSING

SAVING = (
    "SaveImage",
    "SaveImageAdvanced",
    "SaveSVGNode",
    "SaveVideo",
    "SaveAnimatedWEBP",
    "SaveWEBM",
    "SaveAudio",
    "SaveAudioMP3",
    "SaveAudioOpus",
    "SaveAudioAdvanced",
    "SaveGLB",
    "Save3DAdvanced",
    "SaveGaussianSplat",
    "SavePointCloud",
    "SaveAnimatedPNG",
    "CLIPSave",
    "VAESave",
    "ModelSave",
    "LoraSave",
    "SaveLatent",
)
"""The classes whose `filename_prefix` may hold tokens."""
TOKEN = re.compile(r"%([^%]+)%")
DATE_PART = re.compile("dd?|MM?|hh?|mm?|ss?|yyy?y?")
COMMENT = re.compile(r"/\*.*?\*/|//[^\n\r\u2028\u2029]*", re.DOTALL)
UNFIT = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')
MAX_DEPTH = 100
Choose = Callable[[Sequence[str]], str]


def first(choices: Sequence[str]) -> str:
    return choices[0]


def replace_tokens(value: str, nodes: Sequence[Node], now: datetime) -> str:
    """`value` with `%date:FORMAT%` and `%NODE.WIDGET%` filled in.

    Args:
        value: the text.
        nodes: of the whole file; NODE is the "Node name for S&R" of one, else its title.
        now: the time.
    """

    def filled(match: re.Match[str]) -> str:
        parts = match[1].split(".")
        if len(parts) != 2:
            date = parts[0].startswith("date:")
            return format_date(parts[0][5:], now) if date else match[0]
        wanted = [n for n in nodes if n.properties.get("Node name for S&R") == parts[0]]
        wanted = wanted or [n for n in nodes if n.title == parts[0]]
        widget = wanted[0].widget(parts[1]) if wanted else None
        return UNFIT.sub("_", as_text(widget.value)) if widget else match[0]

    return TOKEN.sub(filled, value)


def format_date(text: str, now: datetime) -> str:
    """`text` with d, M, h, m, s (once or twice), yy and yyyy replaced by parts of `now`."""
    parts = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def part(match: re.Match[str]) -> str:
        found = match[0]
        if found == "yyyy":
            return f"{now.year}"
        if found == "yy":
            return f"{now.year}"[2:]
        return f"{parts[found[0]]:0{len(found)}}" if found[0] in parts else found

    return DATE_PART.sub(part, text)


def as_text(value: Any) -> str:
    """A value as the page writes it into a text."""
    if value is MISSING or value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        return ",".join("" if isinstance(part, list) else as_text(part) for part in value)
    return "[object Object]" if isinstance(value, dict) else str(value)


def choose_prompt(value: str, choose: Choose = first, depth: int = 0) -> str:
    r"""A dynamic prompt without its comments, with one part of every {a|b}.

    A backslash before {, } or | takes its meaning away. Braces inside more than `MAX_DEPTH` others
    stay as they are.
    """
    if depth > MAX_DEPTH:
        return value
    text, position, result = COMMENT.sub("", value), 0, []
    while position < len(text):
        letter = text[position]
        position += 1
        if letter == "\\":
            result.append(letter + text[position : position + 1])
            position += 1
        elif letter == "{":
            choices, position = read_choices(text, position)
            result.append(choose_prompt(choose(choices), choose, depth + 1))
        else:
            result.append(letter)
    return re.sub(r"\\([{}|])", r"\1", "".join(result))


def read_choices(text: str, position: int) -> tuple[list[str], int]:
    """The parts between { and }, and the position behind them."""
    choices, depth = [""], 0
    while position < len(text):
        letter = text[position]
        position += 1
        if letter == "\\":
            choices[-1] += letter + text[position : position + 1]
            position += 1
            continue
        if letter == "{":
            depth += 1
        elif letter == "}":
            if not depth:
                break
            depth -= 1
        elif letter == "|" and not depth:
            choices.append("")
            continue
        choices[-1] += letter
    return choices, position


def all_nodes(scenes: Iterable[Any]) -> list[Node]:
    return [node for scene in scenes for node in scene.nodes.values()]
