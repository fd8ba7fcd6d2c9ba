"""Output of run.py: lines of progress with elapsed seconds, and the error of the set-up."""

import shutil
import sys
import time


class SetupError(Exception):
    """The set-up failed; the message says what to do. `status` becomes the exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class Progress:
    """Prints lines with elapsed seconds; on a terminal, live lines are rewritten in place."""

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
