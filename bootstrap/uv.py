"""The settings with which uv gets packages from where pip gets them."""

import ast
import os
import subprocess
from pathlib import Path

# Each setting of pip, uv's variable for it, and what separates several values there.
VARIABLES = {
    "index-url": ("UV_INDEX_URL", " "),
    "extra-index-url": ("UV_EXTRA_INDEX_URL", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "constraint": ("UV_CONSTRAINT", " "),
    "cert": ("SSL_CERT_FILE", " "),
}


def uv_environment(python: str | Path) -> dict[str, str]:
    """Variables for uv, from the settings of the pip of `python`; the user's own win."""
    command = [str(python), "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    settings = pip_settings(listed.stdout if listed.returncode == 0 else "")
    variables = {
        variable: separator.join(settings[name])
        for name, (variable, separator) in VARIABLES.items()
        if name in settings
    }
    # As pip does: the best version of all indexes, not the first index that has the package.
    return {"UV_INDEX_STRATEGY": "unsafe-best-match", **variables, **os.environ}


def pip_settings(listed: str) -> dict[str, list[str]]:
    """What `pip config list` prints, by setting; later sections override earlier ones."""
    settings: dict[str, list[str]] = {}
    for section in ("global.", "install.", ":env:."):
        for line in listed.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(section):
                settings[name.removeprefix(section)] = str(ast.literal_eval(value)).split()
    return settings
