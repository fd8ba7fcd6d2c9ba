"""The hook that sees every call of a transformer, through diffusers' hook registry.

Pipelines may share a transformer and run in threads of their own. There is one hook, which passes
a call to the loop that runs in the calling thread; calls of other threads are not touched.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from diffusers.hooks.hooks import HookRegistry, ModelHook, StateManager
from torch import nn

from ...engine.blocks import in_use, outside_compiled_regions
from ...families.spec import unwrap_compiled

KEY = "teacache"

Forward = Callable[..., Any]
CallHandler = Callable[[nn.Module, Forward, str | None, tuple[Any, ...], dict[str, Any]], Any]
"""(module, its forward, name of the branch, args, kwargs) -> the call's result."""


class Subscription(NamedTuple):
    """Who makes the results of a module's calls.

    Args:
        handler: makes them.
        owner: whose handler this is.
        thread: in which it is called; None for every thread that has none of its own.
    """

    handler: CallHandler
    owner: Any
    thread: int | None


class _Name(threading.local):
    value: str | None = None


class _BranchName(StateManager):  # type: ignore[misc]
    """Receives the name of the branch from `cache_context`, thread by thread."""

    def __init__(self) -> None:
        super().__init__(None)
        self._name = _Name()

    @property
    def name(self) -> str | None:
        return self._name.value

    def set_context(self, context: Any) -> None:
        named = context is not None and not isinstance(context, str)
        self._name.value = context.name if named else context

    def reset(self, *args: Any, **kwargs: Any) -> None:
        self._name.value = None


class CallHook(ModelHook):  # type: ignore[misc]
    """Passes each call of a module to the newest handler of the calling thread.

    Its forward is run by one thread at a time: the slots of its blocks may hold the proxies of
    that thread's call.

    Args:
        forward_was_set: whether the module had a `forward` of its own before.
    """

    _is_stateful = True

    def __init__(self, forward_was_set: bool) -> None:
        super().__init__()
        self.branch = _BranchName()
        self.forward_was_set = forward_was_set
        self.subscriptions: list[Subscription] = []

    def subscription(self, *threads: int | None) -> Subscription | None:
        """The newest one of the first of `threads` that has one."""
        newest_first = self.subscriptions[::-1]
        of_threads = (
            known for thread in threads for known in newest_first if known.thread == thread
        )
        return next(of_threads, None)

    @outside_compiled_regions
    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        original = self.fn_ref.original_forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            with in_use(module):
                return original(*args, **kwargs)

        found = self.subscription(threading.get_ident(), None)
        if found is None:
            return forward(*args, **kwargs)
        return found.handler(module, forward, self.branch.name, args, kwargs)

    def reset_state(self, module: nn.Module) -> nn.Module:
        return module


def hook_owner(transformer: nn.Module) -> Any:
    """The owner of the handler for calls of every thread on a transformer, None without one."""
    module = unwrap_compiled(transformer)
    hook = HookRegistry.check_if_exists_or_initialize(module).get_hook(KEY)
    found = None if hook is None else hook.subscription(None)
    return None if found is None else found.owner


@contextmanager
def hooked(
    transformer: nn.Module, handler: CallHandler, owner: Any, thread: int | None = None
) -> Iterator[None]:
    """The transformer's calls go to `handler`; after the last one its forward is what it was.

    Args:
        handler, owner, thread: as in `Subscription`.
    """
    module = unwrap_compiled(transformer)
    subscription = Subscription(handler, owner, thread)
    with in_use(module):
        registry = HookRegistry.check_if_exists_or_initialize(module)
        hook = registry.get_hook(KEY)
        if hook is None:
            hook = CallHook("forward" in vars(module))
            registry.register_hook(hook, KEY)
        hook.subscriptions.append(subscription)
    try:
        yield
    finally:
        with in_use(module):
            hook.subscriptions.remove(subscription)
            if not hook.subscriptions:
                registry.remove_hook(KEY, recurse=False)
                if not hook.forward_was_set and not registry.hooks:
                    del module.forward
