"""A virtual environment: the stages done in it, and repair after an interrupted installation."""

import json
import re
import shutil
import sys
from pathlib import Path

from bootstrap.processes import succeeds


class Venv:
    """A virtual environment and the stamps of its completed stages."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        program = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"
        self.python = directory / program
        self.stamps = directory / "setup.json"

    def read(self) -> dict[str, str]:
        stamps = self.stamps.read_text() if self.stamps.is_file() else "{}"
        return {str(stage): str(stamp) for stage, stamp in json.loads(stamps).items()}

    def stamp(self, digest: str) -> str:
        """The digest with the version of the environment's Python."""
        settings = self.directory / "pyvenv.cfg"
        text = settings.read_text() if settings.is_file() else ""
        found = re.search(r"version(?:_info)? = (\S+)", text)
        return f"{digest} {found.group(1) if found else ''}"

    def done(self, stage: str, digest: str) -> bool:
        return self.python.exists() and self.read().get(stage) == self.stamp(digest)

    def mark(self, stage: str, digest: str) -> None:
        part = self.stamps.with_suffix(".part")
        part.write_text(json.dumps({**self.read(), stage: self.stamp(digest)}))
        part.replace(self.stamps)

    def site_packages(self) -> Path:
        found = [*self.directory.glob("lib/python3*/site-packages")]
        return found[0] if found else self.directory / "Lib" / "site-packages"

    def repair(self) -> None:
        """Forgets packages whose installation was interrupted.

        pip writes RECORD last. uv copies RECORD with the package and then writes INSTALLER.
        """
        for info in self.site_packages().glob("*.dist-info"):
            if not all((info / name).is_file() for name in ("INSTALLER", "RECORD")):
                shutil.rmtree(info)
        for left in self.site_packages().glob("~*"):
            remove(left)

    def usable(self) -> bool:
        # venv writes the activation scripts last.
        whole = any(self.python.parent.glob("[Aa]ctivate*"))
        return (
            whole
            and any(self.site_packages().glob("pip-*.dist-info"))
            and succeeds([str(self.python), "-m", "pip", "--version"])
        )

    def clear(self) -> None:
        for path in self.directory.iterdir():
            if path.name not in ("setup.log", "setup.lock"):
                remove(path)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
