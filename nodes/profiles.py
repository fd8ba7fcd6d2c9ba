"""TeaCache Profiles: lists, shows, renames, exports and deletes the user's calibrations."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ..teacache.calibration.results import calibration_table
from ..teacache.errors import ConfigError
from ..teacache.hosts.comfyui.conditions import profile_store
from ..teacache.profiles.store import ProfileStore
from .schema import CATEGORY, schema

NO_PROFILE = "none"
ACTIONS = ("list", "show", "rename", "export", "delete")
EXPORT_FOLDER = "teacache-profiles"


class TeaCacheProfiles(io.ComfyNode):
    """Manages the user's profiles."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            search_aliases=["calibration", "manage profiles"],
            node_id="TeaCacheProfiles",
            display_name="TeaCache Profiles",
            category=CATEGORY,
            description="Lists and manages the profiles that Calibrate TeaCache made.",
            inputs=[
                io.Combo.Input(
                    "action",
                    options=list(ACTIONS),
                    default=ACTIONS[0],
                    tooltip=(
                        "export writes a copy into ComfyUI's output folder, under "
                        f"{EXPORT_FOLDER}. A deleted profile is gone."
                    ),
                ),
                io.Combo.Input(
                    "profile",
                    options=[NO_PROFILE, *profile_store().names()],
                    default=NO_PROFILE,
                    tooltip="The profile to act on; list needs none.",
                ),
                io.String.Input("new_name", default="", tooltip="For rename."),
            ],
            outputs=[io.String.Output(display_name="text", tooltip="The result of the action.")],
            is_output_node=True,
            not_idempotent=True,
        )

    @classmethod
    def validate_inputs(
        cls, action: str = ACTIONS[0], profile: str = NO_PROFILE, new_name: str = ""
    ) -> bool | str:
        """Checks the widgets when a prompt is queued.

        Returns:
            True, or the error message.
        """
        try:
            check(profile_store(), action, profile, new_name)
        except ConfigError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, **inputs: str) -> float:
        """NaN, so that the node runs with every prompt: the profiles may have changed."""
        return float("nan")

    @classmethod
    def execute(cls, action: str, profile: str, new_name: str) -> io.NodeOutput:
        store = profile_store()
        check(store, action, profile, new_name)
        text = run_action(store, action, profile, new_name)
        return io.NodeOutput(text, ui=ui.PreviewText(text))


def check(store: ProfileStore, action: str, profile: str, new_name: str) -> None:
    """Checks the widgets against the store.

    Raises:
        ConfigError: A value cannot be used; names the widget.
    """
    if action not in ACTIONS:
        raise ConfigError(f"action must be one of {', '.join(ACTIONS)}, not {action!r}")
    if action == "list":
        return
    if profile == NO_PROFILE:
        known = ", ".join(store.names()) or "none yet"
        raise ConfigError(f"profile: choose one to {action}. There are: {known}")
    if action != "delete" or not store.path(profile).is_file():
        store.load(profile)
    if action == "rename":
        store.new_path(new_name)


def run_action(store: ProfileStore, action: str, profile: str, new_name: str) -> str:
    """Performs one of the `ACTIONS`.

    Returns:
        The list, the table, or a sentence that says what was done.
    """
    if action == "list":
        lines = [
            f"{each.name} · {each.profile.family} · {each.conditions.sampler}, {each.steps} steps"
            for each in store.load_all()
        ]
        return "\n".join(lines) or "no profiles yet: make one with Calibrate TeaCache"
    if action == "show":
        return calibration_table(store.load(profile))
    if action == "rename":
        store.rename(profile, new_name)
        return f"{profile} is now {new_name}"
    if action == "delete":
        store.delete(profile)
        return f"{profile} is deleted"
    target = Path(folder_paths.get_output_directory()) / EXPORT_FOLDER / f"{profile}.json"
    store.export(profile, target, overwrite=True)
    return f"{profile} is copied to {target}"


NODES: list[type[io.ComfyNode]] = [TeaCacheProfiles]
