"""What a spool asks of its folder, and how it fails. No I/O."""

from __future__ import annotations

from typing import Protocol

from understudy.errors import UnderstudyError

__all__ = ["Files", "SpoolFailed", "SpoolFull"]


class SpoolFailed(UnderstudyError):
    """The spool cannot be used now; nothing in it is lost by that."""


class SpoolFull(UnderstudyError):
    """The spool has as much as it may have."""


class Files(Protocol):
    """Files in one folder. Every method may raise OSError; what was asked is in doubt then."""

    def names(self) -> list[str]:
        """Of all regular files."""

    def create(self, name: str, size: int, head: bytes) -> None:
        """A new file that begins with ``head`` and has room for ``size`` bytes; on disk, with its
        name, when this returns, and never without its head. One that was there goes; nothing is
        left when it fails."""

    def size(self, name: str) -> int: ...

    def read(self, name: str, at: int, size: int) -> bytes:
        """As many bytes, or fewer where the file ends."""

    def write(self, name: str, at: int, data: bytes) -> None:
        """All of it."""

    def sync(self, name: str) -> None:
        """What was written is on disk when this returns. After a failure what was written since
        the last success may be gone, whatever a later call says."""

    def cut(self, name: str, size: int) -> None:
        """Give back the room behind ``size`` bytes."""

    def rename(self, name: str, other: str) -> None: ...

    def delete(self, name: str) -> None: ...
