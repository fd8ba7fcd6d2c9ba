"""Workflow files saved by the editor, converted to API graphs with the node definitions.

The result is the prompt that the editor would queue. A file that cannot be converted exactly is
refused; the message says why.
"""

from .convert import to_graph

__all__ = ["to_graph"]
