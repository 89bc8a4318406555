"""The one error of all codecs here."""

from __future__ import annotations

__all__ = ["WireError"]


class WireError(ValueError):
    """The peer sent what the protocol does not allow."""
