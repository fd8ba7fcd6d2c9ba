"""ComfyUI's own server object, complete, for graphs in this process: it listens on no port."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from server import PromptServer

Event = Callable[[str, Any], None]
T = TypeVar("T")
END_SECONDS = 5.0


class HeadlessServer(PromptServer):  # type: ignore[misc]
    """What packs find in `PromptServer.instance`, with the editor's events given to `listener`.

    Its event loop runs in a thread of its own once `serve` was called, as ComfyUI's does beside the
    thread that runs graphs: tasks and prompt handlers of packs run there. It ends with the process.
    """

    def __init__(self) -> None:
        super().__init__(asyncio.new_event_loop())
        self.listener: Event | None = None
        self.last_prompt_id = ""
        self._thread = threading.Thread(target=self._run_loop, name="headless server", daemon=True)
        atexit.register(self._end)

    def send_sync(self, event: Any, data: Any, sid: str | None = None) -> None:
        if self.listener is not None and isinstance(event, str):
            self.listener(event, data)

    def serve(self) -> None:
        """Starts the thread of the event loop."""
        self._thread.start()
        self.call(self.setup())

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What the coroutine returns, run in the event loop's thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def _end(self) -> None:
        """Stops the thread, cancels what packs have started, and closes the event loop."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(END_SECONDS)
        if not (self.loop.is_running() or self.loop.is_closed()):
            self.loop.run_until_complete(self._finish())
            self.loop.close()

    async def _finish(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=END_SECONDS)
        if self.client_session is not None:
            await self.client_session.close()
        await self.loop.shutdown_asyncgens()
