"""Where the set-up reads and writes; always looked up here, so that tests can point elsewhere."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"
COMFYUI = ROOT / ".comfyui"
