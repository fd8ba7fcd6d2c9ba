"""TeaCache for diffusion transformers: sample faster by not computing nearly equal steps.

    from teacache import enable_teacache

    handle = enable_teacache(pipe, rel_l1_thresh=0.2)
    image = pipe("a red apple").images[0]
    print(handle.report_for().summary)

What `__all__` names is the public face and stays stable; every other module is private. The names
are imported when they are first used: torch, diffusers and ComfyUI are loaded only by what needs
them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import TeaCacheConfig
    from .errors import ConfigError
    from .families.registry import register_family, unregister_family
    from .families.spec import Family
    from .families.streams import BlockArguments, BlockList, Role, Stream
    from .hosts.comfyui.patch import apply_teacache
    from .hosts.diffusers.enable import disable_teacache, enable_teacache, teacache
    from .hosts.diffusers.loading import load_pipeline
    from .hosts.diffusers.prompts import Generated, generate
    from .report import RunReport

__version__ = "0.2.0"

_MODULES = {
    "BlockArguments": "families.streams",
    "BlockList": "families.streams",
    "ConfigError": "errors",
    "Family": "families.spec",
    "Generated": "hosts.diffusers.prompts",
    "Role": "families.streams",
    "RunReport": "report",
    "Stream": "families.streams",
    "TeaCacheConfig": "config",
    "apply_teacache": "hosts.comfyui.patch",
    "disable_teacache": "hosts.diffusers.enable",
    "enable_teacache": "hosts.diffusers.enable",
    "generate": "hosts.diffusers.prompts",
    "load_pipeline": "hosts.diffusers.loading",
    "register_family": "families.registry",
    "teacache": "hosts.diffusers.enable",
    "unregister_family": "families.registry",
}
"""Where each public name is defined."""

_REMEDIES = {
    "comfy": "it runs inside ComfyUI",
    "diffusers": "pip install 'teacache-studio[diffusers]'",
    "torch": "install PyTorch",
}
"""How to get what a name needs."""

__all__ = [
    "BlockArguments",
    "BlockList",
    "ConfigError",
    "Family",
    "Generated",
    "Role",
    "RunReport",
    "Stream",
    "TeaCacheConfig",
    "__version__",
    "apply_teacache",
    "disable_teacache",
    "enable_teacache",
    "generate",
    "load_pipeline",
    "register_family",
    "teacache",
    "unregister_family",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f".{_MODULES[name]}", __name__)
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing not in _REMEDIES:
            raise
        raise ImportError(f"{name} needs {missing}: {_REMEDIES[missing]}") from error
    return vars(module)[name]


def __dir__() -> list[str]:
    return __all__
