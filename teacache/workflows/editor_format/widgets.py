"""The widgets of a node: which an input gets in the editor, and their first values."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

MISSING: Any = object()
"""In place of a value that does not exist, where null is one."""
CHOOSING = "COMFY_DYNAMICCOMBO_V3"
"""The type of a choice that decides which further inputs there are."""
SEEDS = ("seed", "noise_seed")
TYPED_VALUES: dict[str, Any] = {
    "INT": 0,
    "FLOAT": 0,
    "BOOLEAN": False,
    "STRING": "",
    "MARKDOWN": "",
    "COLOR": "#000000",
    "PAINTER": "",
    "TEXTAREA": "",
    "IMAGECOMPARE": ["", ""],
    "BOUNDING_BOX": {"x": 0, "y": 0, "width": 512, "height": 512},
    "BOUNDING_BOXES": [],
    "COLORS": [],
    "COMPOSITOR": {},
    "CURVE": {"points": [[0, 0], [1, 1]], "interpolation": "monotone_cubic"},
    "RANGE": {"min": 0, "max": 1},
    "VIDEO_EDIT": {},
    "CHART": {},
    "GALLERIA": [],
}
"""{input type that the editor has a widget for: the value of a new one without a default}."""


@dataclass
class Widget:
    """A control of a node.

    Attributes:
        name: the input that it sets, or a name of its own.
        type: of the input; "" for a control that sets none.
        value: `MISSING` while there is none, as in a choice of nothing.
        saved: whether the file holds a value for it.
        queued: whether its value is an input.
        options: of the input.
        on_value: called after the value is set while a file is opened.
    """

    name: str
    type: str = ""
    value: Any = MISSING
    saved: bool = True
    queued: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    on_value: Callable[[], None] | None = None

    def set(self, value: Any) -> None:
        self.value = value
        if self.on_value is not None:
            self.on_value()


def button(name: str) -> Widget:
    """A control whose value the file holds, but that is no input."""
    return Widget(name, queued=False)


def input_type(spec: tuple[Any, Mapping[str, Any]]) -> str:
    """The type by which the editor chooses the widget of an input."""
    kind, options = spec
    return str(options.get("widgetType") or ("COMBO" if isinstance(kind, (list, tuple)) else kind))


def split_spec(spec: Any) -> tuple[Any, Mapping[str, Any]]:
    """The type (a list for a choice) and the options of an input."""
    options = spec[1] if len(spec) > 1 and isinstance(spec[1], Mapping) else {}
    return spec[0], options


def widgets_of(name: str, spec: tuple[Any, Mapping[str, Any]]) -> list[Widget]:
    """The widgets of an input, in the order of their values in a file; none for a socket.

    Growing inputs and dynamic choices are not among them: they change while a file is opened.
    """
    kind, options = spec
    type_ = input_type(spec)
    if options.get("forceInput"):
        return []
    if type_ in PAGE_WIDGETS:
        return PAGE_WIDGETS[type_](name)
    if type_ == "COMBO":
        first = Widget(name, "COMBO", choice(kind, options), options=options)
    elif type_ in TYPED_VALUES:
        default = options.get("default")
        value = TYPED_VALUES[type_] if default is None else default
        saved = type_ != "IMAGECOMPARE"
        first = Widget(name, type_, copy.deepcopy(value), saved=saved, options=options)
    else:
        return []
    return [first, *(button(extra) for extra in controls(name, type_, options))]


def controls(name: str, type_: str, options: Mapping[str, Any]) -> list[str]:
    """The names of the controls behind a widget: parts of it, or what changes its value."""
    control = options.get("control_after_generate")
    if type_ == "INT" and control is None and name in SEEDS:
        control = True
    if type_ == "BOUNDING_BOX":
        return ["x", "y", "width", "height"]
    remote = options.get("remote") if type_ == "COMBO" and not options.get("multi_select") else None
    refresh = ["Auto-refresh after generation"] if isinstance(remote, Mapping) else []
    if isinstance(remote, Mapping) and remote.get("refresh_button"):
        refresh.append("refresh")
    if type_ not in ("INT", "FLOAT", "COMBO") or not control:
        return refresh
    after = [*refresh, control if isinstance(control, str) else "control_after_generate"]
    return [*after, "control_filter_list"] if type_ == "COMBO" else after


def choice(kind: Any, options: Mapping[str, Any]) -> Any:
    """The value of a new choice: its default, else the first; `MISSING` when there is none."""
    if options.get("multi_select"):
        return []
    choices = options.get("options", kind if isinstance(kind, (list, tuple)) else None)
    if options.get("default"):
        return options["default"]
    if isinstance(choices, (list, tuple)) and choices:
        return choices[0]
    return "Loading..." if options.get("remote") else MISSING


def view_3d(name: str) -> list[Widget]:
    return [Widget(name, "LOAD_3D")]


PAGE_WIDGETS: dict[str, Callable[[str], list[Widget]]] = {
    "LOAD_3D": view_3d,
    "AUDIO_RECORD": lambda name: [Widget(name, "AUDIO_RECORD", ""), button(name)],
    "WEBCAM": lambda name: [Widget(name, "WEBCAM")],
}
"""{type of an input whose value the page makes: the widgets that it gets}."""


def rounded(value: Any, type_: str, options: Mapping[str, Any]) -> Any:
    """A number as a widget takes it from a primitive node: in its steps."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return value
    if type_ == "INT":
        step = options.get("step") or 1
        start = math.fmod(options.get("min") or 0, step) if step != 1 else 0
        return int(math.floor((value - start) / step + 0.5) * step + start)
    if type_ == "FLOAT":
        step = options.get("step") or 0.5
        digits = max(0, -math.floor(math.log10(step)))
        unit = options.get("round") or (10.0**-digits if digits else None)
        if unit:
            value = round(math.floor(value / unit + 0.5) * unit, digits)
            low, high = options.get("min", 0), options.get("max", 2048)
            return min(max(value, low), high)
    return value
