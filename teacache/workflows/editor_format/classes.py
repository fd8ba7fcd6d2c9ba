"""Nodes completed from their classes: sockets and widgets as the editor makes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..definitions import MATCHING
from .packs import pack_widgets
from .scene import InputSlot, Node, OutputSlot, slot_type
from .values import by_name, misplaced, place
from .widgets import CHOOSING, Widget, button, controls, input_type, split_spec, widgets_of

Spec = tuple[Any, Mapping[str, Any]]
GROWING = "COMFY_AUTOGROW_V3"
UPLOADS = ("image_upload", "animated_image_upload", "video_upload")


def complete(node: Node, definition: Mapping[str, Any]) -> None:
    """Gives a node the sockets and widgets of its class and the values of the file.

    Links stay with the input of their name. Values go to the widgets in their order, as in the
    editor: those that the file lacks keep their defaults, and surplus ones are left out. Where one
    does not fit its widget, they go by name, if the file tells the names.
    """
    built = BuiltNode(definition)
    built.place(node.values or [])
    named = by_name(node) if misplaced(built.widgets) else None
    if named is not None:
        built = BuiltNode(definition)
        built.place(named)
    saved = {slot.name: slot.link for slot in node.inputs}
    built.widgets += pack_widgets(node, {widget.name for widget in built.widgets})
    inputs = [replace(slot, link=saved.get(slot.name)) for slot in built.inputs]
    names = {slot.name for slot in inputs}
    widgets = {widget.name for widget in built.widgets}
    for slot in node.inputs:
        lost = slot.widget is not None and slot.widget not in widgets
        if slot.name not in names and not lost and not built.outdated(slot.name):
            inputs.append(slot)
    node.inputs, node.widgets = inputs, built.widgets
    for number, kind in enumerate(definition.get("output") or ()):
        if number == len(node.outputs):
            node.outputs.append(OutputSlot("", "*"))
        node.outputs[number].type = "*" if kind == MATCHING else slot_type(kind)
    node.title = node.title or definition.get("display_name") or node.kind


def ordered_specs(definition: Mapping[str, Any]) -> dict[str, Spec]:
    """Every input of a class in the order of the editor, upload buttons included."""
    groups = definition.get("input") or {}
    required = {name: split_spec(spec) for name, spec in (groups.get("required") or {}).items()}
    optional = {name: split_spec(spec) for name, spec in (groups.get("optional") or {}).items()}
    uploads = (
        input_type(spec) == "COMBO" and any(spec[1].get(upload) for upload in UPLOADS)
        for spec in required.values()
    )
    audio = required.get("audio", ("", {}))[1].get("audio_upload")
    if any(uploads) or audio:
        required["upload"] = ("UPLOAD", {})
    order = definition.get("input_order") or {}
    names = [name for name in order.get("required") or () if name in required]
    names += [name for name in order.get("optional") or () if name in optional]
    specs = optional | required
    return {name: specs[name] for name in dict.fromkeys([*names, *required, *optional])}


def count_widgets(name: str, spec: Spec) -> int:
    """How many values a file holds for an input that neither grows nor decides on others."""
    return 1 if input_type(spec) == "UPLOAD" else sum(w.saved for w in widgets_of(name, spec))


class BuiltNode:
    """A new node of a class: its sockets and widgets with their first values."""

    def __init__(self, definition: Mapping[str, Any]) -> None:
        self.inputs: list[InputSlot] = []
        self.widgets: list[Widget] = []
        self.growing: set[str] = set()
        self.choosing: set[str] = set()
        self.specs = ordered_specs(definition)
        for name, spec in self.specs.items():
            self.add_socket(name, spec)
        for name, spec in self.specs.items():
            self.add_widgets(name, spec)
        if definition.get("name") == "CustomCombo" and self.widgets:
            add_options(self.widgets)
        if definition.get("name") == "WebcamCapture":
            self.widgets.append(button("capture"))

    def add_socket(self, name: str, spec: Spec) -> None:
        """The socket of an input without a widget; of a growing input those that it begins with."""
        kind, options = spec
        if kind == GROWING:
            self.growing.add(name)
            for part, part_spec in first_parts(name, options.get("template") or {}):
                self.add_socket(part, part_spec)
                self.add_widgets(part, part_spec)
        elif not self.has_widget(name, spec):
            allowed = (options.get("template") or {}).get("allowed_types", "*")
            self.inputs.append(InputSlot(name, slot_type(allowed if kind == MATCHING else kind)))

    def has_widget(self, name: str, spec: Spec) -> bool:
        special = (GROWING, CHOOSING, "UPLOAD")
        return input_type(spec) in special or bool(widgets_of(name, spec))

    def add_widgets(self, name: str, spec: Spec) -> None:
        kind, options = spec
        type_ = input_type(spec)
        if type_ == GROWING:
            return
        if type_ == "UPLOAD":
            self.widgets.append(button(name))
            return
        if type_ == CHOOSING:
            self.add_choice(name, options)
            return
        made = widgets_of(name, spec)
        if type_ == "LOAD_3D" and any(widget.name == "model_file" for widget in self.widgets):
            buttons = ("upload 3d model", "upload extra resources", "clear")
            made = [*map(button, buttons), *made]
        self.widgets += made
        if made and not options.get("socketless"):
            self.inputs.append(InputSlot(name, slot_type(kind), widget=name))

    def add_choice(self, name: str, options: Mapping[str, Any]) -> None:
        """A choice that decides which further inputs there are: those of its value, behind it."""
        inputs = {entry["key"]: entry.get("inputs") or {} for entry in options.get("options") or ()}
        chosen = Widget(name, CHOOSING, options={"options": list(inputs)})
        self.choosing.add(name)
        self.widgets.append(chosen)
        self.inputs.append(InputSlot(name, CHOOSING, widget=name))

        def update() -> None:
            self.widgets[:] = [w for w in self.widgets if not below(w.name, name)]
            self.inputs[:] = [slot for slot in self.inputs if not below(slot.name, name)]
            self.growing = {other for other in self.growing if not below(other, name)}
            known = isinstance(chosen.value, str) and chosen.value in inputs
            behind = self.widgets.index(chosen) + 1
            rest = self.widgets[behind:]
            del self.widgets[behind:]
            if known:
                for group in ("required", "optional"):
                    for part, spec in (inputs[chosen.value].get(group) or {}).items():
                        self.add_socket(f"{name}.{part}", split_spec(spec))
                        self.add_widgets(f"{name}.{part}", split_spec(spec))
            self.widgets += rest

        chosen.on_value = update
        if inputs:
            chosen.set(next(iter(inputs)))

    def outdated(self, name: str) -> bool:
        """Whether an input of the file belongs to a choice that is not made any more."""
        if any(below(name, growing) for growing in self.growing):
            return False
        return any(below(name, choosing) for choosing in self.choosing)

    def place(self, values: list[Any] | dict[str, Any]) -> None:
        """Sets the widgets to the values of a file."""
        place(self.widgets, values if isinstance(values, dict) else self.without_sockets(values))

    def without_sockets(self, values: list[Any]) -> list[Any]:
        """The values without those of inputs that are widgets no more."""
        kept: list[bool] = []
        names = {widget.name for widget in self.widgets}
        for name, spec in self.specs.items():
            forced = bool(spec[1].get("forceInput"))
            if name in names or forced:
                kept += [not forced, *(True for _ in controls(name, input_type(spec), spec[1]))]
        if all(kept) or len(kept) != len(values):
            return values
        return [value for value, keep in zip(values, kept, strict=True) if keep]


def below(name: str, group: str) -> bool:
    return name.startswith(f"{group}.")


def first_parts(name: str, template: Mapping[str, Any]) -> Iterator[tuple[str, Spec]]:
    """The inputs that a growing input begins with: as many as it needs, and one to connect."""
    groups = template.get("input") or {}
    specs = [*(groups.get("required") or {}).items(), *(groups.get("optional") or {}).items()]
    names = template.get("names")
    most = len(names) if names else template.get("max", 100)
    for number in range(min(template.get("min", 1) + 1, most)):
        for part, spec in specs:
            prefix = template.get("prefix", "") if len(specs) == 1 else part
            yield f"{name}.{names[number] if names else f'{prefix}{number}'}", split_spec(spec)


def add_options(widgets: list[Widget]) -> None:
    """The texts to choose from of a Custom Combo, and the number of the one that is chosen."""
    chosen = widgets[0]
    index = Widget("index", value=-1)

    def number() -> None:
        texts = [widget.value for widget in widgets[2:]]
        index.value = texts.index(chosen.value) if chosen.value in texts else -1

    def add() -> None:
        option = Widget(f"option{len(widgets) - 1}", value="")
        option.on_value = lambda: grow(option)
        widgets.append(option)

    def grow(option: Widget) -> None:
        if option.value and option is widgets[-1]:
            add()
        number()

    chosen.on_value = index.on_value = number
    widgets.append(index)
    add()
