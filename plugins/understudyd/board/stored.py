"""What all stores of a board have in common: their text, ages, and which requests still stand."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any, TypeVar

from understudyd.board.port import REQUEST_LIFE, SUBJECTS, Answer, Request, Shown
from understudyd.board.sightings import Sightings
from understudyd.status import HistoryEntry, Member, build

__all__ = ["Reader", "Stored", "dump", "dump_answer"]

T = TypeVar("T")

LARGEST = 4096  # bytes of one thing; a node, a request or a change is some 300
NODES = 50  # that are shown: what all say of themselves has to fit into the API's page

Stored = tuple[str | bytes, object, float]
"""A text as it is stored, what changes whenever it is written, and its age in seconds."""


def dump(value: Member | HistoryEntry | Request) -> str:
    return json.dumps(asdict(value), separators=(",", ":"))


def dump_answer(request: Request, answer: Answer) -> str:
    return json.dumps({"id": request.id, **asdict(answer)}, separators=(",", ":"))


class Reader:
    """One board's view of its store, which it looks at again and again."""

    def __init__(self) -> None:
        self._nodes = Sightings()
        self._requests = Sightings()
        self._entries: dict[str | bytes, HistoryEntry | None] = {}  # as they were written

    def read(
        self,
        nodes: Mapping[str, Stored],
        requests: Mapping[str, Stored],
        answers: Mapping[str, str | bytes],
        history: Iterable[str | bytes],
    ) -> Shown:
        """``answers`` by the subject of their request; ``history``: the texts, oldest first."""
        return Shown(
            tuple(self._members(nodes)),
            tuple(self._standing(requests, answers)),
            tuple(self._history(history)),
        )

    def _members(self, stored: Mapping[str, Stored]) -> list[Member]:
        """By name; where there are too many, those that spoke last."""
        ages = _ages(self._nodes, stored)
        names = sorted(sorted(stored, key=ages.__getitem__)[:NODES])
        found = {name: _read(stored[name][0], Member.from_json) for name in names}
        return [
            replace(member, seen_s=ages[name])
            for name, member in found.items()
            if member is not None
        ]

    def _standing(
        self, requests: Mapping[str, Stored], answers: Mapping[str, str | bytes]
    ) -> list[Request]:
        ages = _ages(self._requests, requests)
        standing: list[Request] = []
        for subject in ("pause", "move"):
            request = _read(requests[subject][0], _request) if subject in requests else None
            if request is None or SUBJECTS.get(request.command) != subject:
                continue
            if subject == "move" and ages[subject] > REQUEST_LIFE:
                continue
            given = _read(answers[subject], _answer) if subject in answers else None
            if given is not None and given[0] == request.id:
                request = replace(request, answer=given[1])
            standing.append(request)
        return standing

    def _history(self, texts: Iterable[str | bytes]) -> list[HistoryEntry]:
        """What was told twice counts once."""
        known = self._entries
        self._entries = {
            text: known[text] if text in known else _read(text, HistoryEntry.from_json)
            for text in texts
        }
        return [entry for entry in self._entries.values() if entry is not None]


def _ages(sightings: Sightings, stored: Mapping[str, Stored]) -> dict[str, float]:
    shown = {name: (version, age) for name, (_, version, age) in stored.items()}
    return sightings.ages(shown, time.monotonic())


def _request(data: Mapping[str, Any]) -> Request:
    return build(Request, {**data, "answer": None})


def _answer(data: Mapping[str, Any]) -> tuple[object, Answer]:
    return data["id"], build(Answer, data)


def _read(text: str | bytes, build: Callable[[Any], T]) -> T | None:
    """None for what another version wrote, or nobody wrote to its end."""
    if len(text) > LARGEST:
        return None
    try:
        data = json.loads(text)
        return build(data) if isinstance(data, dict) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
