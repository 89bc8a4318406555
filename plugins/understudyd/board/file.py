"""A board in a folder beside the lock's file: ``orders.lock.board``.

Rules
* A file for each thing that is told, written beside it and renamed, so that nobody reads half of
  it. Nothing is locked and nothing synced: a power cut may cost the last entries.
* The lock's own folder is never made: where it is not there it is away, a share say, and a lock in
  a folder of the same name would be another one.
* A share that hangs makes calls hang; whoever calls does so on a thread that may.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from understudyd.board.port import HISTORY_LIMIT, SUBJECTS, Answer, Request, Shown
from understudyd.board.stored import Reader, Stored, dump, dump_answer
from understudyd.lock.port import Unavailable
from understudyd.status import HistoryEntry, Member

__all__ = ["FileBoard"]

END = ".json"


class FileBoard:
    def __init__(self, lock: str | Path) -> None:
        """The board of the lock in this file."""
        folder = Path(f"{lock}.board")
        self._folder = folder
        self._nodes = folder / "nodes"
        self._history = folder / "history"
        self._requests = folder / "requests"
        self._answers = folder / "answers"
        self._texts: dict[Path, bytes | None] = {}  # of the history
        self._reader = Reader()

    def read(self) -> Shown:
        with self._errors():
            answers = {name: text for name, (text, _, _) in _stored(self._answers).items()}
            return self._reader.read(
                _stored(self._nodes), _stored(self._requests), answers, self._read_history()
            )

    def publish(self, member: Member) -> None:
        self._write(self._nodes, member.name, dump(member))

    def append(self, entry: HistoryEntry) -> None:
        name = f"{entry.token:012}-{time.time_ns():020}-{entry.node}"
        self._write(self._history, name, dump(entry))
        with self._errors():
            for path in _files(self._history)[:-HISTORY_LIMIT]:
                path.unlink(missing_ok=True)

    def ask(self, request: Request) -> None:
        self._write(self._requests, SUBJECTS[request.command], dump(request))

    def answer(self, request: Request, answer: Answer) -> None:
        self._write(self._answers, SUBJECTS[request.command], dump_answer(request, answer))

    def close(self) -> None:
        """Nothing stays open."""

    def _read_history(self) -> list[bytes]:
        """Files of the history are written once, so each is read once."""
        known = self._texts
        self._texts = {
            path: known[path] if path in known else _text(path)
            for path in _files(self._history)[-HISTORY_LIMIT:]
        }
        return [text for text in self._texts.values() if text is not None]

    def _write(self, folder: Path, name: str, text: str) -> None:
        with self._errors():
            for place in (self._folder, folder):
                place.mkdir(mode=0o770, exist_ok=True)
            draft = folder / f".{name}.{os.getpid()}"
            draft.write_text(text, encoding="utf-8")
            draft.replace(folder / f"{name}{END}")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise Unavailable(f"{self._folder}: {exc.strerror or exc}") from exc


def _files(folder: Path) -> list[Path]:
    """In order of their names; none where nobody has written yet."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    return [folder / name for name in names if name.endswith(END) and not name.startswith(".")]


def _text(path: Path) -> bytes | None:
    """None for what has gone meanwhile."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _stored(folder: Path) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    for path in _files(folder):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as stream:
            facts = os.fstat(stream.fileno())
            version = (facts.st_ino, facts.st_mtime_ns)
            found[path.name.removesuffix(END)] = (
                stream.read(),
                version,
                time.time() - facts.st_mtime,
            )
    return found
