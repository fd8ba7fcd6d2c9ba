"""Pictures of what a cache did; drawn with Pillow alone."""

from .comparison import comparison
from .timeline import timeline

__all__ = ["comparison", "timeline"]
