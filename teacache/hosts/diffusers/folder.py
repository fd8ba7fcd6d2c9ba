"""Finds and checks a diffusers pipeline on disk before anything of it is loaded."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ...demo.model import EXPORTED_TEXT, TEXT_METADATA
from ...errors import UserError, listing

INDEX = "model_index.json"
DEMO = "demo"
SAFE = ".safetensors"
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
VARIANT = re.compile(r"\.(fp16|bf16)(-\d+-of-\d+)?\.safetensors$")
REPOSITORY = re.compile(r"[\w-]+(\.[\w-]+)*/[\w-]+(\.[\w-]+)*")


@dataclass(frozen=True)
class PipelineFolder:
    """A folder that can be loaded.

    Attributes:
        path: The folder.
        class_name: The pipeline's class in diffusers.
        components: The folders of its components.
        weights: Its safetensors files.
        variant: `fp16` or `bf16` where the weights exist only in that variant.
        is_demo: Whether its text encoder is the demo model's.
    """

    path: Path
    class_name: str
    components: tuple[str, ...]
    weights: tuple[Path, ...]
    variant: str | None
    is_demo: bool

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.weights)


def list_folders(roots: list[Path]) -> list[str]:
    """Paths of the pipeline folders at most two levels below `roots`, relative to their root."""
    found = {
        index.parent.relative_to(root).as_posix()
        for root in roots
        if root.is_dir()
        for pattern in (f"*/{INDEX}", f"*/*/{INDEX}")
        for index in root.glob(pattern)
    }
    return sorted(found)


def check_folder(folder: Path, source: str) -> PipelineFolder:
    """Checks that a pipeline can be loaded, and from safetensors and known classes only.

    Args:
        folder: The pipeline's folder.
        source: The option or input that named it, for messages.

    Raises:
        UserError: It cannot be loaded, or not safely.
    """
    if not folder.is_dir():
        raise UserError(f"{source}: no such folder: {folder}")
    index = read_index(folder, source)
    name = index["_class_name"]
    components, weights = [], []
    for part, entry in index.items():
        if part.startswith("_") or not isinstance(entry, list) or None in entry:
            continue
        check_origin(folder / part, entry, source)
        components.append(part)
        weights += check_component(folder / part, source)
    exported = folder / EXPORTED_TEXT
    is_demo = "text_encoder" not in components and exported.is_file()
    if is_demo:
        check_weights(exported, source)
        with safe_open(str(exported), framework="pt") as file:
            is_demo = TEXT_METADATA in (file.metadata() or {})
    if not weights:
        raise UserError(f"{source}: {folder} holds no weights (*{SAFE})")
    return PipelineFolder(
        folder, name, tuple(components), tuple(weights), variant_of(weights), is_demo
    )


def read_index(folder: Path, source: str) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        raise UserError(f"{source}: {folder} holds no {INDEX}: it is no diffusers pipeline")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{source}: {path} cannot be read: {error}") from None
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise UserError(f"{source}: {path} names no pipeline class of diffusers")
    return index


def check_origin(folder: Path, entry: list[Any], source: str) -> None:
    """Refuses a component whose class is defined by code in its own folder."""
    import diffusers.pipelines

    library, kind = entry[0], str(entry[1])
    known = library in ("diffusers", "transformers") or hasattr(diffusers.pipelines, library)
    if known and library == "transformers" and kind.startswith("Auto"):
        configs = (folder / name for name in ("config.json", "tokenizer_config.json"))
        known = not any(b'"auto_map"' in file.read_bytes() for file in configs if file.is_file())
    if not known:
        raise UserError(
            f"{source}: {folder.name} needs code from the folder ({library}, {kind}), which is "
            "never run; only classes of diffusers and transformers are loaded"
        )


def check_component(folder: Path, source: str) -> list[Path]:
    """Checks one component's folder; returns its weights, which are complete safetensors."""
    if not folder.is_dir():
        raise UserError(f"{source}: missing folder {folder}")
    files = [file for file in folder.iterdir() if file.is_file()]
    weights = sorted(file for file in files if file.suffix == SAFE)
    pickles = sorted(file.name for file in files if file.suffix in PICKLES)
    if pickles and not weights:
        raise UserError(
            f"{source}: {folder} holds only pickled weights ({listing(pickles, 3)}), which can "
            f"run code and are never loaded; convert them to {SAFE}"
        )
    if (folder / "config.json").is_file() and not weights:
        raise UserError(f"{source}: {folder} has a config.json but no weights (*{SAFE})")
    for index in sorted(folder.glob(f"*{SAFE}.index*.json")):
        check_shards(index, source)
    for file in weights:
        check_weights(file, source)
    return weights


def check_shards(index: Path, source: str) -> None:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{source}: {index} cannot be read: {error!r}") from None
    missing = sorted(name for name in names if not (index.parent / str(name)).is_file())
    if missing:
        raise UserError(f"{source}: missing file {index.parent / missing[0]} ({index.name})")


def check_weights(file: Path, source: str) -> None:
    """Reads the header, so that a truncated file is refused before anything is loaded."""
    try:
        with safe_open(str(file), framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(f"{source}: {file} is broken: {error}") from None


def variant_of(weights: list[Path]) -> str | None:
    """`fp16` or `bf16` where a component's weights exist only under that suffix."""
    by_folder: dict[Path, list[str | None]] = {}
    for file in weights:
        found = VARIANT.search(file.name)
        by_folder.setdefault(file.parent, []).append(found.group(1) if found else None)
    only = [names[0] for names in by_folder.values() if None not in names]
    return only[0] if only else None


def find_pipeline(name: str, source: str, online: bool = False) -> Path:
    """The folder `name`, or that of the Hugging Face repository `name` in the local cache.

    Args:
        name: A path or a repository, such as `Qwen/Qwen-Image`.
        source: The option or input that gave the name, for messages.
        online: Download what the cache lacks of the repository, except pickles.

    Raises:
        UserError: There is no such folder and the repository is not available.
    """
    folder = Path(name).expanduser()
    if folder.exists() or not REPOSITORY.fullmatch(name):
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                name,
                local_files_only=not online,
                allow_patterns=["*.json", f"*/*{SAFE}", "*/*.json", "*/*.txt", "*/*.model"],
            )
        )
    except LocalEntryNotFoundError:
        remedy = (
            "cannot be reached" if online else "is not in the local cache; --download fetches it"
        )
        raise UserError(f"{source}: no such folder, and the repository {name} {remedy}") from None
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{source}: {name} cannot be fetched: {reason}") from None
