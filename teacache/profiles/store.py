"""The folder of the user's own profiles: one JSON file each."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path

from ..errors import ConfigError, nearest
from ..files import write_atomically, write_json
from .calibrated import Calibration, parse_calibration
from .conditions import Conditions, differences
from .profile import load_profiles, unknown_profile

FOLDER_VARIABLE = "TEACACHE_PROFILES"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._()+-]{0,99}")
PARTIAL = ".partial.jsonl"
"""Ends the name of what an unfinished calibration has kept so far."""
LARGEST = 64_000_000
"""Bytes of a file that is read."""
log = logging.getLogger("teacache")


def default_folder() -> Path:
    """Where profiles lie outside ComfyUI: $TEACACHE_PROFILES, or the user's data folder."""
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named)
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "teacache" / "profiles"


class ProfileStore:
    """The calibrations in `folder`. Names are file names without `.json`; a file that cannot be
    used is named in the log and passed over, unless it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def in_user_folder(cls, user: Path) -> ProfileStore:
        """Of a ComfyUI, whose folder for its users is `user`; $TEACACHE_PROFILES goes first."""
        named = os.environ.get(FOLDER_VARIABLE)
        return cls(Path(named) if named else user / "teacache" / "profiles")

    def names(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        return sorted(path.stem for path in self.folder.glob("*.json") if NAME.fullmatch(path.stem))

    def path(self, name: str) -> Path:
        """The file of `name`; ConfigError for a name that could leave the folder."""
        if not NAME.fullmatch(name) or name.endswith((".", " ", ".json")):
            raise ConfigError(
                f"profile name {name!r}: must be 1 to 100 letters, digits, spaces or . _ ( ) + -, "
                "and begin with a letter or digit"
            )
        return self.folder / f"{name}.json"

    def new_path(self, name: str, overwrite: bool = False) -> Path:
        """The same for a profile to be written: refused where there is one, or one is shipped."""
        path = self.path(name)
        if name in (*load_profiles(), "auto"):
            raise ConfigError(f"profile name {name!r}: a shipped profile has it; choose another")
        if path.exists() and not overwrite:
            raise ConfigError(f"profile {name!r} exists: choose another name, or overwrite it")
        return path

    def free_name(self, family: str, digest: str) -> str:
        """family-digest, with a number where that is taken."""
        base = f"{family}-{digest[:6]}"
        taken, name, number = self.names(), base, 1
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        return name

    def load(self, name: str) -> Calibration:
        path = self.path(name)
        if not path.is_file():
            known = self.names()
            hint = nearest(name, known) or f". Known: {', '.join(known) or 'none'}"
            raise ConfigError(f"unknown profile {name!r}{hint}")
        return read_calibration(path)

    def named(self, name: str) -> Calibration:
        """The same, where shipped profiles may be meant as well."""
        own = self.names()
        if name not in own:
            shipped = load_profiles()
            if name not in shipped:
                raise unknown_profile(name, [*shipped, *own])
        return self.load(name)

    def usable(self) -> list[Calibration]:
        """All that can be read, newest first."""
        found = []
        for name in self.names():
            try:
                found.append(self.load(name))
            except ConfigError as error:
                log.warning("TeaCache: %s", error)
        return sorted(found, key=lambda c: str(c.made.get("date", "")), reverse=True)

    def find(self, conditions: Conditions) -> Calibration | None:
        """The calibration of the same model and patches, the one whose conditions differ least."""
        same = [
            known for known in self.usable() if known.conditions.identity == conditions.identity
        ]
        return min(same, key=lambda c: len(differences(c.conditions, conditions)), default=None)

    def save(self, calibration: Calibration, overwrite: bool = False) -> Path:
        path = self.new_path(calibration.name, overwrite)
        write_json(path, calibration.to_json())
        return path

    def rename(self, name: str, new: str) -> Path:
        target = self.new_path(new)
        self.load(name)
        data = json.loads(self.path(name).read_text(encoding="utf-8"))
        write_json(target, {**data, "name": new})
        self.path(name).unlink()
        return target

    def delete(self, name: str) -> None:
        path = self.path(name)
        if not path.is_file():
            self.load(name)
        path.unlink()

    def export(self, name: str, target: Path, overwrite: bool = False) -> None:
        """A copy of a usable profile's file."""
        self.load(name)
        if target.exists() and not overwrite:
            raise ConfigError(f"{target} exists: choose another file")
        text = self.path(name).read_text(encoding="utf-8")
        write_atomically(target, lambda file: file.write_text(text, encoding="utf-8"))

    def add(self, source: Path, name: str | None = None) -> Calibration:
        """Takes in a file that was exported elsewhere."""
        calibration = read_calibration(source)
        target = self.new_path(calibration.name if name is None else name)
        data = json.loads(source.read_text(encoding="utf-8"))
        write_json(target, {**data, "name": target.stem})
        return calibration


def read_calibration(path: Path) -> Calibration:
    """ConfigError in one line where `path` holds none."""
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"{path.name}: {path.stat().st_size} bytes are no profile")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name}: cannot be read as text: {error}") from None
    return parse_calibration(text, path.name)


def named_calibration(name: str, family: str, store: ProfileStore) -> Calibration:
    """The user's profile `name`; ConfigError when it is unknown or made for another family."""
    calibration = store.named(name)
    if calibration.profile.family != family:
        raise ConfigError(
            f"profile {name!r} is made for the family {calibration.profile.family!r}, "
            f"but this model is {family!r}; choose auto"
        )
    return calibration
