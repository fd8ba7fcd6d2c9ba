"""What goes to workers on other machines: the package with the pack, and the environment."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ..installation import LIBRARY, pack_folder
from ..profiles.store import ProfileStore, default_folder
from .actor import THREADS, Surroundings

PASSED = (
    "COMFYUI_DIR", "CUBLAS_", "CUDNN_", "DIFFUSION_CACHE_", "GOMP_", "HF_DATASETS_OFFLINE",
    "HF_HOME", "HF_HUB_", "KMP_", "MKL_", "NVIDIA_TF32_OVERRIDE", "OMP_", "PYTORCH_", "TEACACHE_",
    "TORCH_",
)  # fmt: skip
"""How the environment variables begin that workers get: what decides on a result. No secrets."""
SECRET = ("TOKEN", "KEY")
PACK_FILES = ("nodes/**/*.py", "models/*/teacache_demo*.safetensors", "workflows/api/*.json")
"""Of a checkout, what an installed package holds."""


def runtime_env(local: bool) -> dict[str, Any]:
    """Ray's runtime environment for a worker.

    Args:
        local: they run on this machine, with the package where it is.
    """
    variables = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(PASSED) and not any(word in name for word in SECRET)
    }
    if not local:  # the package came when the cluster was joined
        return {"env_vars": variables}
    path = [str(LIBRARY.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"env_vars": variables | {"PYTHONPATH": os.pathsep.join(path)}}


def surroundings(local: bool) -> Surroundings:
    """What a worker takes on when it starts.

    Args:
        local: it finds the user's files where they are.
    """
    profiles = None
    if not local:
        store = ProfileStore(default_folder())
        profiles = {
            f"{name}.json": store.path(name).read_text(encoding="utf-8") for name in store.names()
        }
    return Surroundings(str(Path.cwd()), os.environ.get(THREADS), profiles)


@functools.cache
def shipped_package() -> Path:
    """The folder `teacache` with the pack in it: as it is installed, or made from the checkout."""
    pack = pack_folder()
    if pack.is_relative_to(LIBRARY):
        return LIBRARY
    temporary = tempfile.mkdtemp(prefix="teacache-package-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    package = Path(temporary) / LIBRARY.name
    shutil.copytree(LIBRARY, package, ignore=shutil.ignore_patterns("__pycache__"))
    for pattern in PACK_FILES:
        for file in pack.glob(pattern):
            copy = package / "pack" / file.relative_to(pack)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, copy)
    return package
