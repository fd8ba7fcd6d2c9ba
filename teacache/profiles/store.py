"""The folder of the user's own profiles: one JSON file for each calibration."""

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
from .profile import MAX_SUGGESTIONS, load_profiles, unknown_profile_error

FOLDER_VARIABLE = "TEACACHE_PROFILES"
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._()+-]{0,99}")
PARTIAL_SUFFIX = ".partial.jsonl"
"""Of the journal of an unfinished calibration, beside the profiles."""
MAX_FILE_BYTES = 64_000_000
"""Larger files are not read."""
log = logging.getLogger("teacache")


def default_folder() -> Path:
    """The folder for diffusers pipelines: $TEACACHE_PROFILES, or one in the user's data folder."""
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named)
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "teacache" / "profiles"


class ProfileStore:
    """The calibrations in a folder.

    Args:
        folder: holds one file NAME.json for each profile; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def in_user_folder(cls, user: Path) -> ProfileStore:
        """The store of a ComfyUI: $TEACACHE_PROFILES, or a folder in its user directory `user`."""
        named = os.environ.get(FOLDER_VARIABLE)
        return cls(Path(named) if named else user / "teacache" / "profiles")

    def names(self) -> list[str]:
        """Names of all profiles, sorted; the files are not read."""
        if not self.folder.is_dir():
            return []
        return sorted(
            path.stem for path in self.folder.glob("*.json") if NAME_PATTERN.fullmatch(path.stem)
        )

    def path(self, name: str) -> Path:
        """The file of the profile `name`, whether it exists or not.

        Raises:
            ConfigError: the name is not allowed; in particular, it could leave the folder.
        """
        if not NAME_PATTERN.fullmatch(name) or name.endswith((".", " ", ".json")):
            raise ConfigError(
                f"profile name {name!r}: must be 1 to 100 letters, digits, spaces or . _ ( ) + -, "
                "and begin with a letter or digit"
            )
        return self.folder / f"{name}.json"

    def new_path(self, name: str, overwrite: bool = False) -> Path:
        """The file for a profile that is about to be written.

        Raises:
            ConfigError: the name is not allowed, or taken by a shipped profile, or by an own one
                and `overwrite` is false.
        """
        path = self.path(name)
        if name in (*load_profiles(), "auto"):
            raise ConfigError(f"profile name {name!r}: a shipped profile has it; choose another")
        if path.exists() and not overwrite:
            raise ConfigError(f"profile {name!r} exists: choose another name, or overwrite it")
        return path

    def free_name(self, family: str, digest: str) -> str:
        """A name for a new profile: `family-digest`, with a number if that is taken.

        Args:
            family: id of the family.
            digest: of the weights; its first 6 digits are used.
        """
        base = f"{family}-{digest[:6]}"
        taken, name, number = self.names(), base, 1
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        return name

    def load(self, name: str) -> Calibration:
        """Read one of the user's own profiles.

        Raises:
            ConfigError: there is no such profile, or its file is unusable.
        """
        path = self.path(name)
        if not path.is_file():
            raise self._unknown(name)
        return read_calibration(path)

    def load_for_setting(self, name: str) -> Calibration:
        """Read the profile that the setting `profile` names, which is not a shipped one.

        Raises:
            ConfigError: as `load`; shipped profiles are suggested as well.
        """
        own = self.names()
        if name not in own:
            raise unknown_profile_error(name, [*load_profiles(), *own])
        return self.load(name)

    def load_all(self) -> list[Calibration]:
        """Read all profiles, newest first. Unusable files are left out, with a warning."""
        calibrations = []
        for name in self.names():
            try:
                calibrations.append(self.load(name))
            except ConfigError as error:
                log.warning("TeaCache: %s", error)
        return sorted(calibrations, key=lambda c: str(c.provenance.get("date", "")), reverse=True)

    def find(self, conditions: Conditions) -> Calibration | None:
        """The calibration for a run: of those for the same weights and patches, the most similar.

        Profiles of one uncached run, in which nothing was tried, are used only where named.

        Args:
            conditions: of the run.

        Returns:
            The one with the fewest `differences`, the newest of several; None if there is none.
        """
        candidates = [
            c
            for c in self.load_all()
            if c.conditions.identity == conditions.identity and not c.learned
        ]
        return min(
            candidates, key=lambda c: len(differences(c.conditions, conditions)), default=None
        )

    def save(self, calibration: Calibration, overwrite: bool = False) -> Path:
        """Write a calibration under its own name; raises ConfigError as `new_path`."""
        path = self.new_path(calibration.name, overwrite)
        write_json(path, calibration.to_json())
        return path

    def rename(self, name: str, new: str) -> Path:
        """Rename a usable profile; raises ConfigError as `load` and `new_path`."""
        target = self.new_path(new)
        self.load(name)
        data = json.loads(self.path(name).read_text(encoding="utf-8"))
        write_json(target, {**data, "name": new})
        self.path(name).unlink()
        return target

    def delete(self, name: str) -> None:
        """Delete a profile, usable or not; raises ConfigError if there is none."""
        path = self.path(name)
        if not path.is_file():
            raise self._unknown(name)
        path.unlink()

    def export(self, name: str, target: Path, overwrite: bool = False) -> None:
        """Copy the file of a usable profile.

        Raises:
            ConfigError: as `load`, or `target` exists and `overwrite` is false.
        """
        self.load(name)
        if target.exists() and not overwrite:
            raise ConfigError(f"{target} exists: choose another file")
        text = self.path(name).read_text(encoding="utf-8")
        write_atomically(target, lambda file: file.write_text(text, encoding="utf-8"))

    def import_file(self, source: Path, name: str | None = None) -> Calibration:
        """Add a file that was exported elsewhere.

        Args:
            source: the file.
            name: for the profile; None for the one in the file.

        Raises:
            ConfigError: the file is unusable or the name taken.
        """
        calibration = read_calibration(source)
        target = self.new_path(calibration.name if name is None else name)
        data = json.loads(source.read_text(encoding="utf-8"))
        write_json(target, {**data, "name": target.stem})
        return calibration

    def _unknown(self, name: str) -> ConfigError:
        hint = nearest(name, self.names(), MAX_SUGGESTIONS) or "."
        return ConfigError(
            f"unknown profile {name!r}{hint} 'teacache profiles list' lists your own profiles"
        )


def read_calibration(path: Path) -> Calibration:
    """Read the file of a calibration.

    Raises:
        ConfigError: it cannot be read or is unusable.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path.name}: {path.stat().st_size} bytes are no profile")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name}: cannot be read as text: {error}") from None
    return parse_calibration(text, path.name)


def named_calibration(name: str, family: str, store: ProfileStore) -> Calibration:
    """The user's own profile that the setting `profile` names.

    Raises:
        ConfigError: it is unknown, unusable, or made for another family.
    """
    calibration = store.load_for_setting(name)
    if calibration.profile.family != family:
        raise ConfigError(
            f"profile {name!r} is made for the family {calibration.profile.family!r}, "
            f"but this model is {family!r}; choose auto"
        )
    return calibration
