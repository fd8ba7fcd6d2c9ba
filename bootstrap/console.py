"""What run.py says: progress with elapsed seconds, and errors that say what to do."""

import shutil
import sys
import time


class SetupError(Exception):
    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class Progress:
    """Lines with elapsed seconds; one of them is rewritten in place on a terminal."""

    def __init__(self) -> None:
        self.start = self.last = time.monotonic()
        self.live_width = 0

    def _line(self, text: str) -> str:
        return f"[{time.monotonic() - self.start:5.1f} s] {text}"

    def say(self, text: str) -> None:
        self.last = time.monotonic()
        print(self._line(text).ljust(self.live_width), flush=True)
        self.live_width = 0

    def end_live(self) -> None:
        if self.live_width:
            print()

    def live(self, text: str) -> None:
        if sys.stdout.isatty():
            line = self._line(text)[: shutil.get_terminal_size().columns - 1]
            print(line.ljust(self.live_width), end="\r", flush=True)
            self.live_width = len(line)
        elif time.monotonic() - self.last > 10:
            self.say(text)


progress = Progress()
