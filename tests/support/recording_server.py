"""A fake of ComfyUI's server that records what nodes send."""

from __future__ import annotations

from aiohttp import web


class Replacements:
    """The manager of node replacements of newer ComfyUI versions; ignores them."""

    def register(self, replacement: object) -> None:
        pass


class RecordingServer:
    """The part of PromptServer that nodes use; records events and progress texts in `sent`."""

    def __init__(self) -> None:
        self.node_replace_manager = Replacements()
        self.routes = web.RouteTableDef()
        self.client_id = "test"
        self.last_node_id = None
        self.sent: list[tuple[str, dict]] = []

    def send_sync(self, event: str, data: dict, sid: str | None = None) -> None:
        self.sent.append((event, data))
        if event == "teacache.ready":  # as text, too: the strip shows it
            shown = filter(None, [data["line"], *data["notes"]])
            self.sent.append(("text", {"node": data["node"], "text": " ".join(shown)}))

    def send_progress_text(self, text: str, node_id: str, sid: str | None = None) -> None:
        self.sent.append(("text", {"node": node_id, "text": text}))
