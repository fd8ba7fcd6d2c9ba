"""`teacache profiles`: list, show, rename, copy and delete the user's own profiles."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..hosts.comfyui.headless.boot import find_comfyui
from .options import say

if TYPE_CHECKING:
    from ..profiles.store import ProfileStore


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "profiles",
        help="your own profiles: list, show, rename, export, import, delete",
        description="The profiles that 'calibrate' has made: those of a ComfyUI, or with "
        "--diffusers those for pipelines.",
    )
    add_store_options(parser)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, arguments, text in (
        ("list", (), "names, and what each is for"),
        ("show", ("NAME",), "what a profile holds"),
        ("rename", ("NAME", "NEW"), "give it another name"),
        ("export", ("NAME", "FILE"), "write a copy to FILE"),
        ("import", ("FILE",), "take in a file that was exported elsewhere"),
        ("delete", ("NAME",), "remove it"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        for argument in arguments:
            action.add_argument(argument.lower(), metavar=argument)
        add_store_options(action, default=argparse.SUPPRESS)
        action.set_defaults(act=ACTIONS[name])
    parser.set_defaults(run=run)


def add_store_options(parser: argparse.ArgumentParser, default: Any = None) -> None:
    """Which store; before or behind the action's name."""
    parser.add_argument(
        "--comfyui",
        type=Path,
        metavar="DIR",
        default=default,
        help="whose profiles (default: as for 'run')",
    )
    parser.add_argument(
        "--diffusers",
        action="store_true",
        default=default,
        help="those outside ComfyUI: $TEACACHE_PROFILES, or the user's data folder",
    )


def run(args: argparse.Namespace) -> int:
    store = profile_store(args)
    say(f"{store.folder}:")
    args.act(store, args)
    return 0


def profile_store(args: argparse.Namespace) -> ProfileStore:
    """The store that the hosts use (`hosts.comfyui.conditions`), without loading ComfyUI."""
    from ..profiles.store import ProfileStore, default_folder

    if args.diffusers:
        if args.comfyui is not None:
            raise UserError("--diffusers: has no ComfyUI; leave out --comfyui")
        return ProfileStore(default_folder())
    try:
        return ProfileStore.in_user_folder(find_comfyui(args.comfyui) / "user")
    except UserError as error:
        raise UserError(f"{error}; --diffusers has those of pipelines") from None


def list_all(store: ProfileStore, args: argparse.Namespace) -> None:
    known = store.load_all()
    if not known:
        print("no profiles yet: make one with 'calibrate'")
    for each in known:
        made = each.provenance
        fit = "plans only" if each.fit_rejection else f"R² {each.profile.r2:.2f}"
        print(
            f"{each.name}  {each.profile.family}  {made.get('model', '')}  "
            f"{each.conditions.sampler}, {each.steps} steps  {fit}  {made.get('date', '')}"
        )


def show(store: ProfileStore, args: argparse.Namespace) -> None:
    from ..calibration.results import calibration_table

    print(calibration_table(store.load(args.name)))


def rename(store: ProfileStore, args: argparse.Namespace) -> None:
    print(store.rename(args.name, args.new))


def export(store: ProfileStore, args: argparse.Namespace) -> None:
    store.export(args.name, Path(args.file))
    print(args.file)


def import_file(store: ProfileStore, args: argparse.Namespace) -> None:
    print(store.path(store.import_file(Path(args.file)).name))


def delete(store: ProfileStore, args: argparse.Namespace) -> None:
    store.delete(args.name)
    print(f"{args.name} is deleted")


ACTIONS = {
    "list": list_all,
    "show": show,
    "rename": rename,
    "export": export,
    "import": import_file,
    "delete": delete,
}
