"""The class of a pipeline that the cache is on: its `progress_bar` starts a loop of that pipeline.

The cache is attached by giving the object a class derived from its own, under the same name, as
`torch.nn.utils.parametrize` does. A method there is told which object it is called on, so that a
copy of the pipeline runs on its own scheduler and components; a function kept on the object would
go on serving the original. The class holds nothing: the handle is an attribute of each object.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol

from .loop import DenoisingLoop

HANDLE = "teacache"
BAR = "progress_bar"


class Handle(Protocol):
    """The cache that is on a pipeline and its copies (`enable.CachedPipeline`)."""

    def attach(self, pipe: Any) -> None:
        """Every denoising loop of `pipe` runs with the cache from now on."""

    def denoising(
        self, pipe: Any, total: int | None
    ) -> AbstractContextManager[DenoisingLoop | None]:
        """One denoising loop of `pipe`; None where it runs without the cache."""


class LoopBar:
    """A progress bar within which a pipeline denoises: as `with`, or as what is looped over."""

    def __init__(self, bar: Any, handle: Handle, pipe: Any, total: int | None) -> None:
        self._bar, self._handle, self._pipe, self._total = bar, handle, pipe, total
        self._stack = ExitStack()
        self._loop: DenoisingLoop | None = None

    def __enter__(self) -> LoopBar:
        with ExitStack() as stack:
            stack.enter_context(self._bar)
            self._loop = stack.enter_context(self._handle.denoising(self._pipe, self._total))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: Any) -> bool | None:
        return self._stack.__exit__(*raised)

    def __iter__(self) -> Iterator[Any]:
        with self._handle.denoising(self._pipe, None):
            yield from self._bar

    def update(self, n: float = 1) -> Any:
        """A step is over: known here before the next one begins."""
        if self._loop is not None:
            self._loop.end_evaluation()
        return self._bar.update(n)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bar, name)


class WithCache:
    """Marks the class of a pipeline that the cache is on.

    Copies have the cache, too, with the same handle. A pickled pipeline comes back without it.
    """

    __slots__ = ()


class _ProgressBar:
    """`progress_bar` in the class of a pipeline that the cache is on.

    Of the object it is the pipeline's own bar, around which its denoising loop runs with the cache;
    of the class, and of classes derived from it, the same as a function of the object.
    """

    def __set_name__(self, kind: Any, name: str) -> None:
        self._kind = kind

    def __get__(self, pipe: Any, kind: type | None = None) -> Any:
        if pipe is None:
            return self._of_class
        own = vars(pipe).get(BAR)
        return _around(pipe, self._inherited(pipe) if own is None else own)

    def __set__(self, pipe: Any, bar: Any) -> None:
        vars(pipe)[BAR] = bar

    def __delete__(self, pipe: Any) -> None:
        if BAR not in vars(pipe):
            raise AttributeError(BAR)
        del vars(pipe)[BAR]

    def _of_class(self, pipe: Any, *args: Any, **options: Any) -> Any:
        return _around(pipe, self._inherited(pipe))(*args, **options)

    def _inherited(self, pipe: Any) -> Any:
        inherited: Any = super(self._kind, pipe)
        return inherited.progress_bar


def _around(pipe: Any, bar: Any) -> Any:
    """`bar` with the cache, where it is on."""
    handle = vars(pipe).get(HANDLE)
    return bar if handle is None else functools.partial(_loop_bar, bar, handle, pipe)


def _copy(pipe: Any) -> Any:
    return _with_handle_of(pipe, copy.copy(_without_cache(pipe)))


def _deepcopy(pipe: Any, memo: dict[int, Any]) -> Any:
    return _with_handle_of(pipe, copy.deepcopy(_without_cache(pipe), memo))


def _reduce(pipe: Any, protocol: Any) -> Any:
    return _unpickled, (_without_cache(pipe),)


def _unpickled(pipe: Any) -> Any:
    return pipe


MEMBERS = {
    "__copy__": _copy,
    "__deepcopy__": _deepcopy,
    "__reduce_ex__": _reduce,
    "__slots__": (),
}
"""In the class itself: Python takes a class for an object's only where its first base is the
object's own one, so that none can come before that."""


def _loop_bar(
    bar: Any, handle: Handle, pipe: Any, iterable: Any = None, total: int | None = None
) -> LoopBar:
    return LoopBar(bar(iterable=iterable, total=total), handle, pipe, total)


def _own_class(pipe: Any) -> Any:
    """The class of `pipe` without the cache."""
    kind = type(pipe)
    while issubclass(kind, WithCache):
        kind = kind.__bases__[0]
    return kind


def _is_exchanged(pipe: Any) -> bool:
    """Whether the class is one that another package has derived from the one with the cache."""
    kind = type(pipe)
    return issubclass(kind, WithCache) and WithCache not in kind.__bases__


def _without_cache(pipe: Any) -> Any:
    """An object of the pipeline's own class that shares all of its attributes but the handle."""
    kind = _own_class(pipe)
    plain = kind.__new__(kind)
    vars(plain).update((name, value) for name, value in vars(pipe).items() if name != HANDLE)
    return plain


def _with_handle_of(pipe: Any, copied: Any) -> Any:
    if _is_exchanged(pipe):
        copied.__class__ = type(pipe)
    handle = vars(pipe).get(HANDLE)
    if handle is not None:
        handle.attach(copied)
    return copied


def attach(pipe: Any, handle: Handle) -> None:
    """The denoising loops of `pipe`, and of its copies, are those of `handle` from now on."""
    if not issubclass(type(pipe), WithCache):
        own: Any = type(pipe)
        named = {
            "__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__
        }  # fmt: skip
        members = {BAR: _ProgressBar(), **MEMBERS, **named}
        pipe.__class__ = type(own)(own.__name__, (own, WithCache), members)
    pipe.teacache = handle


def detach(pipe: Any) -> None:
    """`pipe` is what it was before `attach`.

    A class that another package has derived from it meanwhile stays; it does nothing of ours.
    """
    del vars(pipe)[HANDLE]
    if not _is_exchanged(pipe):
        pipe.__class__ = _own_class(pipe)
