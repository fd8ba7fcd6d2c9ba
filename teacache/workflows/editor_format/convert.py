"""The conversion of a file of the editor: read, completed, and written as a prompt."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ...errors import UserError
from ..definitions import Definitions, Replacements
from ..graph import Graph
from .classes import complete
from .groups import expand_groups
from .ids import renumber
from .links import Placed, Placement
from .packs import unread_values
from .page_only import BROADCASTING, PRIMITIVE
from .primitives import apply_primitive
from .replacements import replace_missing
from .scene import Document, Node, named, read_document, refusal
from .subgraphs import Instances
from .texts import SAVING, Choose, all_nodes, choose_prompt, first, replace_tokens
from .widgets import MISSING, Widget


def to_graph(
    data: dict[str, Any],
    definitions: Definitions,
    source: str,
    replacements: Replacements | None = None,
    choose: Choose = first,
) -> Graph:
    """The API graph of a file saved by the editor.

    Muted nodes are left out and bypassed ones are passed through, as in the editor.

    Args:
        data: the file's JSON.
        definitions: of every node class.
        source: the file's name for messages.
        replacements: what stands in for missing classes.
        choose: takes one of the alternatives {a|b} in a dynamic prompt.

    Raises:
        UserError: the file is damaged, uses a class that is not in `definitions`, or depends on
            what only the editor's page knows.
    """
    document = read_document(data, source)
    renumber(document, data)
    replace_missing(document, definitions, replacements or {})
    expand_groups(document, data, definitions)
    complete_nodes(document, definitions)
    return Writer(document, definitions, choose).graph()


def complete_nodes(document: Document, definitions: Definitions) -> None:
    """Gives every node its sockets, widgets and values: those of subgraphs first."""
    instances = Instances(document)
    for scene in document.scenes:
        for node in scene.nodes.values():
            if node.subgraph is not None:
                instances.complete(node, node.subgraph)
            elif node.kind in definitions:
                complete(node, {"name": node.kind, **definitions[node.kind]})
        for node in scene.nodes.values():
            if node.subgraph is not None:
                instances.show_widgets(node, node.subgraph)


FIRST_CAMERA = {
    "position": {"x": 10, "y": 10, "z": 10.000000000000002},
    "target": {"x": 0, "y": 0, "z": 0},
    "zoom": 1,
    "cameraType": "perspective",
    "quaternion": {
        "x": -0.2798481423331213,
        "y": 0.3647051996310008,
        "z": 0.11591689595929511,
        "w": 0.8804762392171493,
    },
    "fov": 35,
    "aspect": 1,
    "near": 0.01,
    "far": 10000,
    "frustum": {"left": -5, "right": 5, "top": 5, "bottom": -5},
}
"""The camera of a 3D view that nobody has moved."""


class Writer:
    """Writes the prompt of a file with completed nodes."""

    def __init__(self, document: Document, definitions: Definitions, choose: Choose) -> None:
        self.document, self.definitions, self.choose = document, definitions, choose
        self.now = datetime.now()
        self.nodes = all_nodes([document.root, *document.subgraphs])
        for scene in (document.root, *document.subgraphs):
            for node in scene.nodes.values():
                if node.kind == PRIMITIVE:
                    apply_primitive(node, scene, self.replaced)

    def replaced(self, text: str) -> str:
        return replace_tokens(text, self.nodes, self.now)

    def graph(self) -> Graph:
        placement = Placement(self.document, set(self.definitions))
        graph: Graph = {}
        for placed in placement.running():
            self.check(placed)
            graph[placed.id] = {
                "class_type": placed.node.kind,
                "inputs": self.inputs(placed, placement),
                "_meta": {"title": placed.node.title},
            }
        return graph

    def check(self, placed: Placed) -> None:
        """Refuses a node whose class is unknown or that the page completes."""
        node, source = placed.node, self.document.source
        where = f"node {placed.id}"
        if node.kind in BROADCASTING:
            raise refusal(source, f"{where}: {node.kind!r} makes its links in the editor's page")
        if node.kind not in self.definitions:
            pack = node.properties.get("cnr_id") or node.properties.get("aux_id")
            of = f" (of {pack})" if isinstance(pack, str) and pack != "comfy-core" else ""
            raise UserError(
                f"{source}: {where}: no node type {node.kind!r}{of} in this ComfyUI. "
                "Other packs are loaded with --custom-nodes"
            )
        module = str(self.definitions[node.kind].get("python_module", ""))
        if module.startswith("custom_nodes") and unread_values(
            node, sum(widget.saved for widget in node.widgets)
        ):
            raise refusal(source, f"{where} ({node.kind}) holds values that only its page reads")

    def inputs(self, placed: Placed, placement: Placement) -> dict[str, Any]:
        node = placed.node
        inputs: dict[str, Any] = {}
        for widget in node.widgets:
            if widget.queued:
                value = self.value(node, widget)
                if value is not MISSING:
                    inputs[widget.name] = packed(value, widget.type)
        for number, slot in enumerate(node.inputs):
            source = placement.read(placed, number)
            if source is not None and source.node:
                inputs[slot.name] = [source.node, source.slot]
            elif source is not None and source.value is not MISSING:
                inputs[slot.name] = packed(source.value, "")
        return inputs

    def value(self, node: Node, widget: Widget) -> Any:
        """A widget's value as it is queued."""
        value = widget.value
        if widget.type == "LOAD_3D":
            return self.view(node, widget)
        if isinstance(value, str) and widget.name == "filename_prefix" and node.kind in SAVING:
            return self.replaced(value)
        if isinstance(value, str) and widget.options.get("dynamicPrompts"):
            return choose_prompt(value, self.choose)
        return value

    def view(self, node: Node, widget: Widget) -> dict[str, Any]:
        """The state of a 3D view, without the pictures that the page would take of it."""
        if node.kind == "Load3D":
            reason = f"{named(node)}, input {widget.name}: a picture that only the page can take"
            raise refusal(self.document.source, reason)
        camera = node.properties.get("Camera Config")
        state = camera.get("state") if isinstance(camera, dict) else None
        pictures = {"image": "", "mask": "", "normal": "", "recording": ""}
        return {**pictures, "camera_info": state or FIRST_CAMERA, "model_3d_info": []}


def packed(value: Any, type_: str) -> Any:
    """A value as a prompt holds it: a bare list would be a link."""
    if not isinstance(value, list):
        return value
    return {"__type__": "CURVE", "__value__": value} if type_ == "CURVE" else {"__value__": value}
