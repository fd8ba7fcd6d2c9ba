"""Folders of the set-up; modules read them from here, so that tests can replace them."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"
COMFYUI = ROOT / ".comfyui"
