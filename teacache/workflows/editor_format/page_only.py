"""Node types that exist in the editor's page only: no server has a class for them."""

from __future__ import annotations

PRIMITIVE = "PrimitiveNode"
"""Sets the widgets that it is linked to when a prompt is queued."""
REROUTE = "Reroute"
PASSING = (
    REROUTE,
    "Reroute (rgthree)",
    "ReroutePrimitive|pysssss",
    "SetNode",
    "easy setNode",
)
"""Hand on what they are linked to."""
GETTERS = {"GetNode": "SetNode", "easy getNode": "easy setNode"}
"""{type that is linked by name: the type that has the link}."""
SILENT = (
    "Note",
    "MarkdownNote",
    "Label (rgthree)",
    "Bookmark (rgthree)",
    "Fast Muter (rgthree)",
    "Fast Bypasser (rgthree)",
    "Fast Groups Muter (rgthree)",
    "Fast Groups Bypasser (rgthree)",
    "Fast Actions Button (rgthree)",
    "Mute / Bypass Relay (rgthree)",
    "Mute / Bypass Repeater (rgthree)",
    "Node Collector (rgthree)",
    "Random Unmuter (rgthree)",
)
"""Texts, and buttons that act while someone edits."""
BROADCASTING = (
    "Anything Everywhere",
    "Anything Everywhere3",
    "Anything Everywhere?",
    "Prompts Everywhere",
    "Seed Everywhere",
)
"""Have a class, but their links are made by the page when a prompt is queued."""
VIRTUAL = {PRIMITIVE, *PASSING, *GETTERS, *SILENT}
