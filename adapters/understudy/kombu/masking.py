"""Keeps passwords out of everything that kombu and Celery show of a failover URI."""

from __future__ import annotations

from typing import Any

from understudy.core.redact import redact

__all__ = ["MaskedURI", "raw_uri"]


class MaskedURI(str):
    """A URI that reads as its redacted form everywhere, and keeps the real one in ``raw``.

    kombu puts ``Connection.hostname`` into repr, info(), ``inspect stats``, pool keys and pickles.
    Text made of it is masked; equality, hash and pickle go by the real URI, so that two passwords
    are two pools.
    """

    __slots__ = ("raw",)
    raw: str

    def __new__(cls, uri: str) -> MaskedURI:
        self = super().__new__(cls, redact(raw_uri(uri)))
        self.raw = raw_uri(uri)
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self.raw == raw_uri(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.raw)

    def __reduce__(self) -> tuple[Any, ...]:
        return MaskedURI, (self.raw,)


def raw_uri(uri: str) -> str:
    """The real URI of a masked one; any other text as it is."""
    return uri.raw if isinstance(uri, MaskedURI) else str(uri)
