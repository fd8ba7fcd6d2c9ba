"""ComfyUI loaded in this process; its server object is there, but listens on no port."""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ....errors import UserError
from ....installation import LIBRARY, is_checkout, pack_folder

if TYPE_CHECKING:
    from .server import HeadlessServer

PACK = pack_folder()
OLDEST = (0, 3, 75)


def find_comfyui(given: Path | None) -> Path:
    """The ComfyUI to use.

    Args:
        given: its folder; if None, $COMFYUI_DIR, .comfyui in the pack, or the ComfyUI that the
            pack is installed in (by a link as well), whichever exists first.

    Raises:
        UserError: there is no ComfyUI, or it is older than this pack supports.
    """
    if given is not None:
        return checked_comfyui(given.expanduser(), "--comfyui")
    if named := os.environ.get("COMFYUI_DIR"):
        return checked_comfyui(Path(named), "COMFYUI_DIR")
    if (PACK / ".comfyui").is_dir():
        return checked_comfyui(PACK / ".comfyui", "the pack's .comfyui")
    unresolved = Path(os.path.abspath(__file__)).parents[4]  # noqa: PTH100 (a link counts)
    if unresolved.parent.name == "custom_nodes":
        return checked_comfyui(unresolved.parents[1], "the folder above custom_nodes")
    remedy = "run 'python run.py demo' once" if is_checkout() else "set COMFYUI_DIR"
    raise UserError(f"no ComfyUI: name one with --comfyui DIR, or {remedy}")


def checked_comfyui(folder: Path, source: str) -> Path:
    """`folder` if it holds a ComfyUI recent enough, else `UserError`."""
    version_file = folder / "comfyui_version.py"
    if not folder.is_dir():
        raise UserError(f"{source}: no such folder: {folder}")
    if not (version_file.is_file() and (folder / "execution.py").is_file()):
        raise UserError(f"{source}: {folder} holds no ComfyUI (comfyui_version.py, execution.py)")
    version = re.search(r"(\d+)\.(\d+)\.(\d+)", version_file.read_text(encoding="utf-8"))
    if version and tuple(map(int, version.groups())) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise UserError(f"{source}: ComfyUI {version.group()} is too old; {oldest} is needed")
    return folder.resolve()


@dataclass
class Comfy:
    """The modules of the loaded ComfyUI that running a graph needs."""

    execution: Any
    nodes: Any
    folder_paths: Any
    model_management: Any
    server: HeadlessServer
    arguments: Any


def has_accelerator(torch: ModuleType) -> bool:
    if hasattr(torch, "accelerator"):  # PyTorch 2.6 and newer
        return bool(torch.accelerator.is_available())
    return bool(torch.cuda.is_available() or torch.backends.mps.is_available())


def quiet(verbose: bool) -> None:
    """Sends ComfyUI's log to standard error if `verbose`; else only this pack's warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    if not verbose:
        handler.setLevel(logging.WARNING)
        handler.addFilter(lambda record: is_ours(Path(record.pathname)))
        warnings.simplefilter("ignore")
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)


def is_ours(source: Path) -> bool:
    """Whether a source file belongs to this pack, and not to a ComfyUI unpacked inside it."""
    return any(source.is_relative_to(folder) for folder in (LIBRARY, PACK / "nodes"))


@contextmanager
def loading(comfyui: Path) -> Iterator[None]:
    """Raises `UserError` for a failing import of ComfyUI; the message names what is missing."""
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"ComfyUI cannot be loaded by {sys.executable}: {error}. Run with the Python that "
            f"ComfyUI runs with, or install {comfyui / 'requirements.txt'}"
        ) from error


def boot(
    comfyui: Path, output: Path, *, verbose: bool = False, custom_nodes: bool = False
) -> Comfy:
    """Loads ComfyUI with its own nodes and this pack; once per process.

    On a machine without an accelerator it runs on the CPU.

    Args:
        comfyui: its folder.
        output: the folder for saved pictures; previews are saved in its `preview`.
        verbose: show ComfyUI's log.
        custom_nodes: load the other packs of that ComfyUI as well.

    Raises:
        UserError: ComfyUI or this pack cannot be loaded.
    """
    quiet(verbose)
    sys.path.insert(0, str(comfyui))
    with loading(comfyui):
        arguments = importlib.import_module("comfy.cli_args").args
        importlib.import_module("cuda_malloc")  # before torch: it sets the allocator
        arguments.cpu = arguments.cpu or not has_accelerator(importlib.import_module("torch"))
        # before `nodes`: 0.3.75 takes comfy/utils.py for `utils` otherwise
        extra_config = importlib.import_module("utils.extra_config")
        folder_paths = importlib.import_module("folder_paths")
        paths_file = comfyui / "extra_model_paths.yaml"
        if paths_file.is_file():
            extra_config.load_extra_path_config(str(paths_file))
        folder_paths.set_output_directory(str(output))
        folder_paths.set_temp_directory(str(output / "preview"))
        nodes = importlib.import_module("nodes")
        execution = importlib.import_module("execution")
        server = make_server(arguments, folder_paths, output)
    server.loop.run_until_complete(load_nodes(nodes, folder_paths, custom_nodes))
    server.serve()
    utils = importlib.import_module("comfy.utils")
    utils.set_progress_bar_enabled(False)
    comfy = Comfy(
        execution,
        nodes,
        folder_paths,
        importlib.import_module("comfy.model_management"),
        server,
        arguments,
    )
    utils.set_progress_bar_global_hook(progress_hook(comfy))
    return comfy


def make_server(arguments: Any, folder_paths: Any, output: Path) -> HeadlessServer:
    """ComfyUI's server object. It makes no folder of users, and needs no package of the editor."""
    if importlib.util.find_spec("comfyui_frontend_package") is None:
        arguments.front_end_root = str(output)
    if not Path(folder_paths.get_user_directory()).is_dir():
        users = tempfile.TemporaryDirectory(prefix="teacache-users-")
        atexit.register(users.cleanup)
        folder_paths.set_user_directory(users.name)
    server: HeadlessServer = importlib.import_module(f"{__package__}.server").HeadlessServer()
    return server


async def load_nodes(nodes: Any, folder_paths: Any, custom_nodes: bool) -> None:
    """Registers ComfyUI's own nodes, this pack, and other packs if `custom_nodes`."""
    await nodes.init_extra_nodes(init_custom_nodes=custom_nodes, init_api_nodes=False)
    if custom_nodes:
        folders = [Path(folder) for folder in folder_paths.get_folder_paths("custom_nodes")]
        packs = [
            pack.resolve() for folder in folders if folder.is_dir() for pack in folder.iterdir()
        ]
        if PACK in packs:
            return
    problems = LastWarning()
    logging.getLogger().addHandler(problems)
    loaded = await nodes.load_custom_node(str(PACK), set(nodes.NODE_CLASS_MAPPINGS))
    logging.getLogger().removeHandler(problems)
    if not loaded:
        raise UserError(f"this pack's own nodes cannot be loaded: {problems.message}")


class LastWarning(logging.Handler):
    """Remembers the last warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.message = "no reason given"

    def emit(self, record: logging.LogRecord) -> None:
        self.message = record.getMessage()


def progress_hook(comfy: Comfy) -> Callable[..., None]:
    """The server's handler of a node's progress: it checks for interrupts and sends the value.

    A preview is sent with it as it came: its format, the picture, and its largest size.
    """
    context = importlib.import_module("comfy_execution.utils").get_executing_context
    progress = importlib.import_module("comfy_execution.progress")

    def hook(
        value: float,
        total: float,
        preview: Any,
        prompt_id: str | None = None,
        node_id: str | None = None,
    ) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        running = context()
        if prompt_id is None:
            prompt_id = comfy.server.last_prompt_id if running is None else running.prompt_id
        if node_id is None:
            node_id = comfy.server.last_node_id if running is None else running.node_id
        progress.get_progress_state().update_progress(node_id, value, total, None)
        sent = {
            "value": value,
            "max": total,
            "prompt_id": prompt_id,
            "node": node_id,
            "preview": preview,
        }
        comfy.server.send_sync("progress", sent, comfy.server.client_id)

    return hook
