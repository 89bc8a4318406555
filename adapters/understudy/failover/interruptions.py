"""Exceptions of signal handlers, which come wherever they will, told apart from those of a call.

A handler that raises ends what the main thread waits for: an alarm that raises TimeoutError is the
classic. Where an OSError or ValueError of a socket means a broken connection, the handler's own
must not be taken for one: it is the application's, which waits for it. This is asked at every step
of a failover, so it has to be quick.
"""

from __future__ import annotations

import contextlib
import inspect
import signal
import threading
import traceback
from collections.abc import Iterator
from functools import partial
from itertools import chain, pairwise
from types import CodeType, FrameType
from typing import Any

__all__ = ["is_of_signal_handler", "passing_over"]

_SIGNALS = tuple(signal.valid_signals())  # listing them costs as much as asking for the handlers


def is_of_signal_handler(exc: BaseException) -> bool:
    """Whether a signal handler of Python's raised this, or anything that it called."""
    if threading.current_thread() is not threading.main_thread():
        return False  # handlers run nowhere else
    frames = [frame for frame, _ in traceback.walk_tb(exc.__traceback__)]
    if any(_was_given(inner, outer) for outer, inner in pairwise(frames)):
        return True
    handlers = filter(callable, map(signal.getsignal, _SIGNALS))  # not SIG_DFL and SIG_IGN
    codes = {_code(handler) for handler in handlers}
    return any(frame.f_code in codes for frame in frames)


@contextlib.contextmanager
def passing_over(*kinds: type[Exception]) -> Iterator[None]:
    """As contextlib.suppress, for what no signal handler has raised."""
    try:
        yield
    except kinds as exc:
        if is_of_signal_handler(exc):
            raise


def _was_given(frame: FrameType, interrupted: FrameType) -> bool:
    """Whether this one was called with its caller's frame, as Python calls handlers.

    It finds one that is registered no longer: a handler for one shot, which resets itself.
    """
    code = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & inspect.CO_VARARGS)
    values = [frame.f_locals.get(name) for name in code.co_varnames[:count]]
    given = chain.from_iterable(v if type(v) is tuple else (v,) for v in values)
    return any(one is interrupted for one in given)


def _code(handler: Any) -> CodeType | None:
    """Of a function, a method, an object that can be called, and partials of them."""
    while isinstance(handler, partial):
        handler = handler.func
    for call in (handler, type(handler).__call__):
        code = getattr(getattr(call, "__func__", call), "__code__", None)
        if isinstance(code, CodeType):
            return code
    return None
