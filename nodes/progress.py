"""Progress shown on a running node: its bar, previews, and a line with the time left."""

from __future__ import annotations

import logging
import time

import comfy.utils
from server import PromptServer

from ..teacache.hosts.comfyui.backend import Preview
from ..teacache.progress import Progress

log = logging.getLogger("teacache")
TEXT_INTERVAL = 0.5  # seconds between two lines of one stage


class NodeProgress:
    """What the node `node_id` shows.

    Args:
        logged_as: the task's name in the log, which gets a line for each stage; empty for none.
    """

    def __init__(self, node_id: str, logged_as: str = "") -> None:
        self._node_id = node_id
        self._logged_as = logged_as
        self._bar = comfy.utils.ProgressBar(1, node_id=node_id)
        self._preview: Preview | None = None
        self._stage = ""
        self._text_due = 0.0

    def set_preview(self, preview: Preview | None) -> None:
        """Show `preview` with the next step."""
        self._preview = preview

    def update(self, progress: Progress) -> None:
        """Show `progress`. ComfyUI raises here where the prompt was interrupted."""
        self._bar.update_absolute(progress.done, progress.total, self._preview)
        new_stage = progress.stage != self._stage
        if new_stage and self._logged_as:
            log.info("TeaCache: %s: %s", self._logged_as, progress)
        now = time.monotonic()
        if new_stage or now >= self._text_due:
            self._stage, self._text_due = progress.stage, now + TEXT_INTERVAL
            self.show_text(str(progress))

    def show_text(self, text: str) -> None:
        PromptServer.instance.send_progress_text(text, self._node_id)
