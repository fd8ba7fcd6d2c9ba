"""Small files as the editor saves them, with made-up node classes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from teacache.workflows.editor_format import to_graph

File = dict[str, Any]
CHOICES = ["COMBO", {"options": ["x", "y"]}]
DEFINITIONS: dict[str, dict[str, Any]] = {
    "Load": {"input": {"required": {"name": (["a", "b"],)}}, "display_name": "Load It"},
    "LoadNothing": {"input": {"required": {"name": ([],)}}},
    "Patch": {
        "input": {
            "required": {"model": ("MODEL",), "much": ("FLOAT", {"default": 0.5})},
            "optional": {"kind": ("COMBO", {"options": ["x", "y"]})},
        },
        "output": ["MODEL"],
    },
    "Sample": {
        "input": {
            "required": {
                "model": ("MODEL",),
                "seed": ("INT", {"default": 0, "control_after_generate": True}),
                "steps": ("INT", {"default": 20, "step": 2, "min": 1}),
                "text": ("STRING", {"multiline": True, "dynamicPrompts": True}),
                "forced": ("INT", {"forceInput": True}),
            }
        },
        "output": ["IMAGE"],
    },
    "LoadImage": {
        "input": {"required": {"image": (["a.png"], {"image_upload": True})}},
        "output": ["IMAGE", "MASK"],
    },
    "Save": {"input": {"required": {"images": ("IMAGE",), "prefix": ("STRING", {})}}},
    "SaveImage": {"input": {"required": {"images": ("IMAGE",), "filename_prefix": ("STRING", {})}}},
    "Grow": {
        "input": {
            "required": {
                "many": (
                    "COMFY_AUTOGROW_V3",
                    {
                        "template": {
                            "input": {"required": {"image": ("IMAGE", {})}},
                            "prefix": "image",
                            "min": 1,
                            "max": 9,
                        }
                    },
                )
            }
        },
        "output": ["IMAGE"],
    },
    "Choose": {
        "input": {
            "required": {
                "model": (
                    "COMFY_DYNAMICCOMBO_V3",
                    {
                        "options": [
                            {"key": "small", "inputs": {"required": {"size": ("INT", {})}}},
                            {
                                "key": "large",
                                "inputs": {
                                    "required": {
                                        "detail": ("FLOAT", {"default": 1.5}),
                                        "look": ("COMBO", {"options": ["x", "y"]}),
                                        "image": ("IMAGE", {}),
                                    }
                                },
                            },
                        ]
                    },
                ),
                "seed": ("INT", {"control_after_generate": True}),
            }
        },
        "output": ["IMAGE"],
    },
    "Cycle": {
        "input": {
            "required": {
                "name": ("COMBO", {"options": ["a", "b"], "control_after_generate": True}),
                "last": ("INT", {}),
            }
        }
    },
    "View": {"input": {"required": {"state": ("LOAD_3D", {}), "width": ("INT", {})}}},
    "Load3D": {"input": {"required": {"image": ("LOAD_3D", {}), "width": ("INT", {})}}},
    "Compare": {
        "input": {"required": {"view": ("IMAGECOMPARE", {})}, "optional": {"a": ("IMAGE", {})}}
    },
    "CustomCombo": {"input": {"required": {"choice": ("COMBO", {"options": []})}}},
    "Record": {"input": {"required": {"audio": ("AUDIO_RECORD", {}), "gain": ("FLOAT", {})}}},
}


def node(
    number: int,
    kind: str,
    values: Any = (),
    inputs: Sequence[tuple[Any, ...]] = (),
    outputs: Sequence[Any] = (),
    **more: Any,
) -> dict[str, Any]:
    """A node; `inputs` are (name, type, link) or (name, type, link, widget)."""
    slots = [
        {"name": entry[0], "type": entry[1], "link": entry[2]}
        | ({"widget": {"name": entry[3]}} if len(entry) > 3 else {})
        for entry in inputs
    ]
    return {
        "id": number,
        "type": kind,
        "mode": 0,
        "inputs": slots,
        "outputs": [{"name": o, "type": o} if isinstance(o, str) else o for o in outputs],
        "widgets_values": list(values) if isinstance(values, tuple) else values,
        **more,
    }


def output(kind: str, *links: int) -> dict[str, Any]:
    return {"name": kind, "type": kind, "links": list(links)}


def file(nodes: Sequence[Any], links: Sequence[Any] = (), **more: Any) -> File:
    return {"nodes": list(nodes), "links": list(links), **more}


def example() -> File:
    """Load -> Patch -> Reroute -> Sample -> Save, a primitive for steps, and a note."""
    return file(
        [
            node(1, "Load", ["b"], outputs=["MODEL"]),
            node(2, "Patch", [0.25, "y"], [("model", "MODEL", 1)], ["MODEL"], title="My patch"),
            node(3, "Reroute", [], [("", "*", 2)], ["MODEL"]),
            node(
                4,
                "Sample",
                [7, "randomize", 30, "hello"],
                [("model", "MODEL", 3), ("steps", "INT", 4, "steps")],
                ["IMAGE"],
            ),
            node(5, "PrimitiveNode", [12, "fixed"], outputs=[output("INT", 4)]),
            node(6, "Save", ["out"], [("images", "IMAGE", 5)]),
            node(7, "MarkdownNote", ["# hi"]),
        ],
        [
            [1, 1, 0, 2, 0, "MODEL"],
            [2, 2, 0, 3, 0, "*"],
            [3, 3, 0, 4, 0, "MODEL"],
            [4, 5, 0, 4, 1, "INT"],
            [5, 4, 0, 6, 0, "IMAGE"],
        ],
    )


def end(name: str, kind: str, *links: int) -> dict[str, Any]:
    return {"id": name, "name": name, "type": kind, "linkIds": list(links)}


def inner_link(number: int, origin: int, slot: int, target: int, target_slot: int) -> File:
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    return dict(zip(keys, (number, origin, slot, target, target_slot), strict=True)) | {"type": "*"}


def sampling_subgraph(**more: Any) -> File:
    """Inputs model and steps; a Patch and a Sample inside; output IMAGE."""
    return {
        "id": "s1",
        "name": "Sampling",
        "inputs": [end("model", "MODEL", 1), end("steps", "INT", 3)],
        "outputs": [end("IMAGE", "IMAGE", 4)],
        "nodes": [
            node(4, "Patch", [0.75, "x"], [("model", "MODEL", 1)], [output("MODEL", 2)]),
            node(
                5,
                "Sample",
                [1, "fixed", 8, "inner"],
                [("model", "MODEL", 2), ("steps", "INT", 3, "steps")],
                [output("IMAGE", 4)],
            ),
        ],
        "links": [
            inner_link(1, -10, 0, 4, 0),
            inner_link(2, 4, 0, 5, 0),
            inner_link(3, -10, 1, 5, 1),
            inner_link(4, 5, 0, -20, 0),
        ],
        **more,
    }


def with_subgraph(values: Any = (), subgraph: File | None = None, **more: Any) -> File:
    """Load -> an instance of `sampling_subgraph` (node 2) -> Save."""
    return file(
        [
            node(1, "Load", ["b"], outputs=[output("MODEL", 1)]),
            node(
                2,
                "s1",
                values,
                [("model", "MODEL", 1), ("steps", "INT", None, "steps")],
                [output("IMAGE", 2)],
                **more,
            ),
            node(3, "Save", ["out"], [("images", "IMAGE", 2)]),
        ],
        [[1, 1, 0, 2, 0, "MODEL"], [2, 2, 0, 3, 0, "IMAGE"]],
        definitions={"subgraphs": [subgraph or sampling_subgraph()]},
    )


def convert(data: File, **named: Any) -> dict[str, Any]:
    return to_graph(data, DEFINITIONS, "file.json", **named)


def changed(change: Callable[[File], Any], data: File | None = None) -> File:
    """A copy of a file (by default `example`) after `change`."""
    data = copy.deepcopy(data or example())
    change(data)
    return data
