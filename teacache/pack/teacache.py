"""The library under the name by which the nodes import it, `..teacache`."""

from pathlib import Path

__path__ = [str(Path(__file__).parents[1])]
