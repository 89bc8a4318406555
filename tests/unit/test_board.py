"""Ages by the reader's own clock, and which requests still stand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from understudyd.board.memory import MemoryBoard
from understudyd.board.open import open_board
from understudyd.board.port import REQUEST_LIFE, Request
from understudyd.board.sightings import Sightings
from understudyd.board.stored import NODES, Reader, Stored
from understudyd.status import Member


def _requests(
    stored: Mapping[str, Stored],
    answers: Mapping[str, str] = MappingProxyType({}),
    *,
    reader: Reader | None = None,
) -> tuple[Request, ...]:
    return (reader or Reader()).read({}, stored, answers, ()).requests


def test_only_the_first_look_believes_the_stores_clock() -> None:
    """Catalogue 31 to 33: somebody's clock is set, and nobody looks dead or alive by it."""
    sightings = Sightings()
    assert sightings.ages({"a": (1, 30.0)}, now=100.0) == {"a": 30.0}
    assert sightings.ages({"a": (1, 3630.0)}, now=102.0) == {"a": 32.0}  # an hour forward
    assert sightings.ages({"a": (2, 3600.0)}, now=104.0) == {"a": 0.0}
    assert sightings.ages({"a": (2, -3600.0), "b": (1, 9.0)}, now=105.0) == {"a": 1.0, "b": 0.0}


def test_an_age_is_never_below_zero() -> None:
    assert Sightings().ages({"a": (1, -5.0)}, now=1.0) == {"a": 0.0}


@pytest.mark.parametrize("command", ["switchover", "failover", "pause", "resume"])
def test_a_move_that_was_asked_for_long_ago_is_not_carried_out(command: str) -> None:
    subject = "pause" if command in ("pause", "resume") else "move"
    text = json.dumps({"id": "1", "command": command})
    fresh = _requests({subject: (text, 1, REQUEST_LIFE - 1)})
    old = _requests({subject: (text, 1, REQUEST_LIFE + 1)})
    assert [request.command for request in fresh] == [command]
    assert bool(old) == (subject == "pause")


def test_a_move_that_is_seen_to_come_counts_whatever_its_age_is_told_to_be() -> None:
    reader = Reader()
    _requests({}, reader=reader)
    text = json.dumps({"id": "1", "command": "switchover"})
    assert len(_requests({"move": (text, 1, 3600.0)}, reader=reader)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"id": "1"}',
        '{"id": "1", "command": "dance"}',
        '{"command": "pause"}',
        '{"id": ["1"], "command": "pause"}',
        '{"id": "1", "command": ["pause"]}',
        '{"id": "1", "command": "pause", "to": ["b"]}',
        '{"id": "1", "command": "pause", "by": "' + "x" * 10_000 + '"}',
    ],
)
def test_what_is_no_request_is_left_out(text: str) -> None:
    assert _requests({"pause": (text, 1, 0.0)}) == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weight", "2"),
        ("weight", True),
        ("weight", None),
        ("stamp", "7"),
        ("stamp", 1.5),
        ("token", [7]),
        ("role", {}),
        ("healthy", 1),
        ("nofailover", "no"),
    ],
)
def test_a_node_of_wrong_types_is_left_out(name: str, value: object) -> None:
    """Every sidecar of the group reads it, and none of them may stumble."""
    good = {"name": "a", "role": "standby", "state": "standby", "of_tomorrow": 1}
    texts = {"a": json.dumps(good), "b": json.dumps({**good, "name": "b", name: value})}
    stored = {key: (text, 1, 0.0) for key, text in texts.items()}
    assert [member.name for member in Reader().read(stored, {}, {}, ()).members] == ["a"]


def test_of_too_many_nodes_those_are_shown_that_spoke_last() -> None:
    """Names that nobody has any more stay on the board for ever."""
    names = [f"n{number:03}" for number in range(NODES + 20)]
    texts = {name: json.dumps({"name": name, "role": "", "state": ""}) for name in names}
    stored = {name: (texts[name], 1, 1000.0 - number) for number, name in enumerate(names)}
    assert [member.name for member in Reader().read(stored, {}, {}, ()).members] == names[20:]


def test_an_answer_of_wrong_types_is_none() -> None:
    asked = {"move": (json.dumps({"id": "1", "command": "switchover"}), 1, 0.0)}
    (request,) = _requests(asked, {"move": '{"id": "1", "code": "202"}'})
    assert request.answer is None


def test_memory_boards_of_one_uri_and_group_are_one() -> None:
    board = open_board("memory:x", "g", 1.0)
    assert isinstance(board, MemoryBoard)
    assert open_board("memory:x", "g", 1.0)._store is board._store  # type: ignore[attr-defined]
    assert open_board("memory:x", "h", 1.0)._store is not board._store  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", ["file:{}", "file://{}", "file://localhost{}"])
def test_the_board_of_a_file_stands_beside_it(form: str, tmp_path: Path) -> None:
    open_board(form.format(f"{tmp_path}/orders%20lock"), "orders", 1.0).publish(
        Member("a", "none", "")
    )
    assert [path.name for path in tmp_path.iterdir()] == ["orders lock.board"]


def test_a_lock_of_another_kind_has_a_board_of_its_own() -> None:
    assert open_board("etcd://h", "g", 1.0).read().members == ()
