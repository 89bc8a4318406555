"""From a lock's URI to the board beside it."""

from __future__ import annotations

import importlib

from understudy.errors import ConfigurationError
from understudyd.board.file import FileBoard
from understudyd.board.memory import MemoryBoard, Store
from understudyd.board.port import Board
from understudyd.lock.open import file_path

__all__ = ["find_board", "open_board"]

_STORES: dict[str, Store] = {}  # of memory: locks, by URI and group


def open_board(uri: str, group: str, timeout: float) -> Board:
    """A node's board beside the lock of this URI (as the configuration has it).

    Where there is none, one that shows this node to itself alone. Raises as `find_board` does.
    """
    board = find_board(uri, group, timeout)
    return MemoryBoard() if board is None else board


def find_board(uri: str, group: str, timeout: float) -> Board | None:
    """The board that the nodes of a group share; nothing is connected yet. None: a lock of another
    kind has none. Raises ConfigurationError as the lock itself would.
    """
    scheme = uri.partition(":")[0]
    if scheme == "file":
        return FileBoard(file_path(uri))
    if scheme == "memory":
        return MemoryBoard(_STORES.setdefault(f"{uri} {group}", Store()))
    if scheme in ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel"):
        try:
            module = importlib.import_module("understudyd.board.redis")
        except ImportError as exc:
            raise ConfigurationError(f'{exc}; pip install "understudy[redis]"') from exc
        board: Board = module.RedisBoard(uri, group, timeout)
        return board
    return None
