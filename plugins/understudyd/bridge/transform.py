"""A function of yours that every message of a bridge goes through: ``transformer = "module:name"``.

    from understudyd.bridge.transform import Message

    def clean(message: Message) -> Message | None:
        if message.headers.get("test"):
            return None                            # dropped: settled at the source, and counted
        message.headers["site"] = "eu"
        message.body = message.body.replace(b"secret", b"******")
        return message

What it gets is a `Message`, the same whatever the two brokers speak
* ``destination``: where it comes from, as ``queue://orders``; to change it has no effect, see
  ``rename``.
* ``body``: bytes, as they came. ``kind``: "text", "bytes" or "java" (text that Java wrote) where
  the source tells them apart, else None.
* ``headers``: the application's, text by name. In ``types`` stand the AMQP types of those that are
  no text there (`mapping.values`): a header whose text is still one of that type keeps the type.
* ``properties``: text by AMQP's names (content_type, correlation_id, reply_to, message_id, type,
  app_id ...); ``priority``, ``delivery_mode`` (2 is persistent), ``timestamp`` and ``deadline``
  (milliseconds since 1970); None is not set.

What it returns is that message or another, which goes on with ``headers_set`` and
``headers_remove`` applied, or None: then it is dropped. The bridge's own headers (x-understudy-…)
stay as they were, whatever it does with them.

Rules
* An exception, `SystemExit` too, and what is no message, parks this message with the reason; the
  link goes on.
* It runs in the bridge's one thread: while it works, nothing else moves. It must not wait for
  anything, and a message that is sent again after a failure is not given to it again.
* It is imported once, when the configuration is read, from where Python finds modules and from the
  folder of the configuration.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from understudy.errors import ConfigurationError
from understudyd.bridge.content import Dropped, Untranslatable
from understudyd.bridge.mapping.message import BYTES, JAVA, TEXT, Message

__all__ = ["Function", "Message", "Transformer", "load"]

Function: TypeAlias = Callable[[Message], "Message | None"]

_OWN = "x-understudy-"


class Transformer:
    """The function with what is kept from it."""

    def __init__(self, text: str, function: Function) -> None:
        """``text`` is what it is called in reasons."""
        self._text = text
        self._function = function

    def __call__(self, message: Message) -> None:
        """Change the message; raises Dropped or Untranslatable."""
        own = _own(message.headers)
        try:
            changed = self._function(message)
            problem = None if changed is None else _problem(changed)
        except BaseException as error:  # SystemExit too: it would end the reading of the source
            why = " ".join([type(error).__name__, *str(error).splitlines()[:1]])
            raise Untranslatable(f"{self._text} failed: {why}") from error
        if changed is None:
            raise Dropped(f"{self._text} has dropped it")
        if problem:
            raise Untranslatable(f"{self._text} returned {problem}")
        for name in _own(changed.headers).keys() - own.keys():
            del changed.headers[name]
        changed.headers |= own
        if changed is not message:
            for name in Message.__slots__:
                setattr(message, name, getattr(changed, name))


def load(text: str, folder: Path) -> Transformer:
    """The function that ``module:name`` means; raises ConfigurationError."""
    module_name, _, name = text.partition(":")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        why = f"{type(error).__name__}: {error}"
        raise ConfigurationError(f"transformer = {text!r} can't be imported: {why}") from error
    function = getattr(module, name, None)
    if not callable(function):
        there = ", ".join(sorted(_functions(module))) or "none"
        raise ConfigurationError(
            f"transformer = {text!r}: {module_name} has no function {name!r} (there are: {there})"
        )
    if not _takes_one(function):
        raise ConfigurationError(
            f"transformer = {text!r}: it must be a plain function that takes one argument, "
            "the message, and returns it"
        )
    return Transformer(text, function)


def _takes_one(function: Callable[..., object]) -> bool:
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        return False
    try:
        inspect.signature(function).bind(None)
    except ValueError:  # written in C, without a signature
        return True
    except TypeError:
        return False
    return True


def _functions(module: object) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and not name.startswith("_")
    ]


def _own(headers: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in headers.items() if name.startswith(_OWN)}


def _is_sayable(text: str) -> bool:
    try:
        text.encode("utf-8", "surrogateescape")  # as `Message` keeps bytes that are no UTF-8
    except UnicodeEncodeError:
        return False
    return True


def _problem(changed: Message) -> str:
    """What is wrong with what a function returned; empty: nothing."""
    if not isinstance(changed, Message):
        return f"something of type {type(changed).__name__}, not a message or None"
    if not isinstance(changed.body, bytes):
        return f"a body of type {type(changed.body).__name__}, not bytes"
    if changed.kind not in (None, TEXT, BYTES, JAVA):
        return f"a kind that is {changed.kind!r}, not {TEXT!r}, {BYTES!r}, {JAVA!r} or None"
    for what, texts in (
        ("header", changed.headers),
        ("property", changed.properties),
        ("type", changed.types),
    ):
        for name, text in texts.items():
            if not (isinstance(name, str) and isinstance(text, str)):
                return f"a {what} {name!r} of type {type(text).__name__}, not text"
            if not (_is_sayable(name) and _is_sayable(text)):
                return f"a {what} {name!a} with a lone surrogate, which is no character"
    for name in ("priority", "delivery_mode", "timestamp", "deadline"):
        value = getattr(changed, name)
        if value is not None and not isinstance(value, int):
            return f"a {name} of type {type(value).__name__}, not a whole number or None"
    return ""
