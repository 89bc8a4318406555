"""Guards are older than the sidecar that has taken over: what both have to understand has a format.

Whoever changes what is listed here raises `legacy.FORMAT`, so that a restart in place is refused
before it is begun, and puts the new fingerprint beside it.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from dataclasses import fields, is_dataclass

from understudyd import cell
from understudyd.guard import page, words
from understudyd.guard.client import Guard
from understudyd.lock.record import LockRecord
from understudyd.sidecar import legacy

FINGERPRINTS = {3: "3e0fa749b57a25c1"}  # by legacy.FORMAT


def _fields_of(kind: type) -> str:
    assert is_dataclass(kind)
    return f"{kind.__name__}: " + ", ".join(f"{field.name} {field.type}" for field in fields(kind))


def _handed_on() -> list[str]:
    """The state that guards are found by."""
    source = ast.parse(textwrap.dedent(inspect.getsource(Guard.expect_restart)))
    kinds = (ast.Dict, ast.ListComp)
    return sorted(ast.unparse(node) for node in ast.walk(source) if isinstance(node, kinds))


def understood() -> list[str]:
    messages = [getattr(words, name) for name in sorted(words.__all__)]
    return [
        _fields_of(legacy.Legacy),
        _fields_of(LockRecord),
        *(_fields_of(kind) for kind in messages if isinstance(kind, type)),
        f"page: {cell.HEAD.format} {page.LEASE.format} {page.SIGN.format}",
        f"page: {page.SIGNERS} {page.SIZE}",
        *_handed_on(),
    ]


def test_what_is_handed_on_has_the_format_that_it_says() -> None:
    text = "\n".join(understood())
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert fingerprint == FINGERPRINTS.get(legacy.FORMAT), text
