"""The hook that sees every call of a transformer, through diffusers' hook registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.hooks.hooks import HookRegistry, ModelHook, StateManager
from torch import nn

from ...engine.blocks import outside_compiled_regions
from ...families.spec import unwrap_compiled

KEY = "teacache"

Forward = Callable[..., Any]
CallHandler = Callable[[nn.Module, Forward, str | None, tuple[Any, ...], dict[str, Any]], Any]
"""(module, its forward, name of the branch, args, kwargs) -> the call's result."""


class _BranchName(StateManager):  # type: ignore[misc]
    """Receives the name of the branch from `cache_context`; holds no state of its own."""

    def __init__(self) -> None:
        super().__init__(None)
        self.name: str | None = None

    def set_context(self, context: Any) -> None:
        self.name = context if context is None or isinstance(context, str) else context.name

    def reset(self, *args: Any, **kwargs: Any) -> None:
        self.name = None


class CallHook(ModelHook):  # type: ignore[misc]
    """Passes each call of a module to `handler`.

    Args:
        handler: makes the call's result.
        owner: whose hook this is.
    """

    _is_stateful = True

    def __init__(self, handler: CallHandler, owner: Any) -> None:
        super().__init__()
        self.branch = _BranchName()
        self.owner = owner
        self._handler = handler

    @outside_compiled_regions
    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        forward = self.fn_ref.original_forward
        return self._handler(module, forward, self.branch.name, args, kwargs)

    def reset_state(self, module: nn.Module) -> nn.Module:
        return module


def hook_owner(transformer: nn.Module) -> Any:
    """The owner of the hook on a transformer, None without one."""
    module = unwrap_compiled(transformer)
    hook = HookRegistry.check_if_exists_or_initialize(module).get_hook(KEY)
    return None if hook is None else hook.owner


@contextmanager
def hooked(transformer: nn.Module, handler: CallHandler, owner: Any) -> Iterator[None]:
    """The transformer's calls go to `handler`; afterwards its forward is what it was."""
    module = unwrap_compiled(transformer)
    replaced = "forward" in vars(module)
    registry = HookRegistry.check_if_exists_or_initialize(module)
    registry.register_hook(CallHook(handler, owner), KEY)
    try:
        yield
    finally:
        registry.remove_hook(KEY, recurse=False)
        if not replaced and not registry.hooks:
            del module.forward
