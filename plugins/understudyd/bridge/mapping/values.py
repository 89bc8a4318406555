"""Values of AMQP headers as text, and back to the same value.

Rules
* The text is what a reader of STOMP expects: ``5``, ``true``, ``1.75``; JSON for tables and arrays;
  base64 for bytes; nothing for void.
* Beside it go the kinds, the letters of `wire.tables` for the value and all that is in it, in the
  order of the text: ``I`` for an int32, ``AIFS`` for an array of an int32 and of a table with one
  string. ``*`` before a letter: the text is the base64 of the value's raw bytes. A string of its
  own needs none.
* Text and kinds give a value only when that value would be written just so. A text that somebody
  has changed into what does not fit is a string.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

from understudyd.bridge.wire.errors import WireError
from understudyd.bridge.wire.tables import Typed, Value, decode_value, encode_value

__all__ = ["STRING", "from_text", "to_text"]

STRING = "S"

_RAW = "*"
_INTS = "bBsuIilLUT"
_FLOATS = "fd"


def to_text(value: Value) -> tuple[str, str]:
    """The text of a value and its kinds."""
    if isinstance(value, str):
        return value, STRING
    kinds: list[str] = []
    form = _to_json(value, kinds)
    if form is None:
        text = ""
    elif isinstance(form, str):
        text = form
    else:
        text = json.dumps(form, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text, "".join(kinds)


def from_text(text: str, kinds: str) -> Value:
    """The value of these kinds that is written as this text; raises ValueError when none is."""
    letters = iter(kinds)
    try:
        value = _from_json(_parsed(text, kinds), letters)
        if to_text(value) != (text, kinds):
            raise ValueError("it would be written differently")
    except (ValueError, TypeError, StopIteration, RecursionError, struct.error) as error:
        raise ValueError(f"the text is no value of the kinds {kinds[:20]!r}") from error
    return value


def _parsed(text: str, kinds: str) -> Any:
    if kinds == "V":
        return None
    if kinds[:1] in (STRING, "x", "D", _RAW):
        return text
    return json.loads(text)


def _to_json(value: Value, kinds: list[str]) -> Any:
    """What `json` writes for a value; its kinds are appended."""
    if isinstance(value, dict):
        kinds.append("F")
        return {name: _to_json(item, kinds) for name, item in value.items()}
    if isinstance(value, list):
        kinds.append("A")
        return [_to_json(item, kinds) for item in value]
    raw = encode_value(value)
    letter = chr(raw[0])
    if isinstance(value, Typed):
        value = value.value
        if isinstance(value, bytes):
            return _raw(letter, raw, kinds)
    if isinstance(value, float) and not float("-inf") < value < float("inf"):
        return _raw(letter, raw, kinds)
    kinds.append(letter)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return str(value) if isinstance(value, Decimal) else value


def _raw(letter: str, raw: bytes, kinds: list[str]) -> str:
    kinds.append(_RAW + letter)
    return base64.b64encode(raw[1:]).decode("ascii")


def _from_json(form: Any, letters: Iterator[str]) -> Value:
    """The value of one form; raises what does not fit the next letters."""
    letter = next(letters)
    if letter == "F":
        return {name: _from_json(item, letters) for name, item in _of(form, dict).items()}
    if letter == "A":
        return [_from_json(item, letters) for item in _of(form, list)]
    if letter == _RAW:
        raw = next(letters).encode("ascii") + base64.b64decode(_of(form, str), validate=True)
        return decode_value(raw)
    if letter in _INTS:
        return decode_value(encode_value(Typed(letter, _of(form, int))))
    if letter in _FLOATS:
        return decode_value(encode_value(Typed(letter, _of(form, float))))
    return _plain(letter, form)


def _plain(letter: str, form: Any) -> Value:
    if letter == STRING:
        return str(_of(form, str))
    if letter == "t":
        return bool(_of(form, bool))
    if letter == "x":
        return base64.b64decode(_of(form, str), validate=True)
    if letter == "D":
        try:
            return Decimal(_of(form, str))
        except InvalidOperation as error:
            raise ValueError("no decimal number") from error
    if letter == "V" and form is None:
        return None
    raise WireError(f"a value of the unknown kind {letter!r}")


def _of(form: Any, kind: type) -> Any:
    if type(form) is not kind:
        raise TypeError(f"a {type(form).__name__}, not a {kind.__name__}")
    return form
