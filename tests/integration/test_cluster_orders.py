"""``understudy cluster`` gives orders: through an API, or on the board."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from understudyd.board.file import FileBoard
from understudyd.board.port import Answer
from understudyd.status import (
    Role,
)
from understudyd.testing.commanded import SECONDS, SECRET, Call, Estate, run

pytestmark = pytest.mark.integration


def test_nothing_is_moved_where_nobody_is_master(estate: Estate, cluster: Call) -> None:
    """Not even asked on the board, where nobody would answer."""
    for name in "ab":
        estate.board.publish(replace(estate.member(name), role=Role.NONE, state="stopped"))
    done = cluster("switchover")
    assert (done.returncode, done.stderr) == (
        1,
        "understudy: g has no master now, so nothing can be moved\n",
    )
    assert list(estate.board.read().requests) == []


def test_switches_over_through_the_masters_api(estate: Estate, cluster: Call) -> None:
    """Catalogue 97."""
    estate.start("a", "b")
    done = cluster("switchover", "--to", "b")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("b is master of g now (token 4), after ")
    assert [(order.command, order.to) for order in estate.orders] == [("switchover", "b")]
    told = json.loads(cluster("failover", "--to", "a", "--json").stdout)
    assert (told["master"], told["token"], told["way"]) == ("a", 5, "api")


def test_tells_the_groups_refusal(estate: Estate, cluster: Call) -> None:
    estate.start("a", "b", obey=False)
    done = cluster("switchover")
    assert done.returncode == 1
    assert done.stderr == "understudy: a refused the switchover: not now\n"


def test_tells_of_a_token_that_is_not_the_sidecars(estate: Estate, cluster: Call) -> None:
    estate.start("a", "b")
    estate.file.write_text(
        estate.file.read_text().replace(f'token = "{SECRET}"', 'token = "other"')
    )
    done = cluster("pause")
    assert done.returncode == 1
    told = f"a refused the pause: its token is not that of {estate.file}"
    assert done.stderr == f"understudy: {told}\n"
    assert estate.orders == []


def test_gives_up_waiting(estate: Estate, cluster: Call) -> None:
    estate._obey = lambda *_: None  # type: ignore[method-assign]
    estate.start("a", "b")
    done = cluster("switchover", "--wait", "1s")
    assert done.returncode == 1
    assert "it is not done after 1 s" in done.stderr


def test_pauses_and_resumes(estate: Estate, cluster: Call) -> None:
    """Catalogue 98."""
    estate.start("a", "b")
    assert cluster("pause").stdout == "g is paused\n"
    assert "master a token 3 paused" in cluster("list").stdout
    assert cluster("resume").stdout == "g goes on\n"
    assert [order.command for order in estate.orders] == ["pause", "resume"]


def test_asks_on_the_board_when_no_api_answers(estate: Estate, cluster: Call) -> None:
    estate.board.publish(estate.member("a"))
    results: list[subprocess.CompletedProcess[str]] = []
    thread = threading.Thread(target=lambda: results.append(cluster("switchover", "--to", "b")))
    thread.start()
    request = _asked(estate.board)
    assert (request.command, request.to) == ("switchover", "b")
    estate.board.answer(request, Answer(409, "b is not ready"))
    thread.join()
    assert results[0].returncode == 1
    assert "the group refused the switchover: b is not ready" in results[0].stderr

    thread = threading.Thread(target=lambda: results.append(cluster("switchover", "--to", "b")))
    thread.start()
    _asked(estate.board, after=request.id)
    estate.master, estate.token = "b", 4
    for name in "ab":
        estate.board.publish(estate.member(name))
    thread.join()
    assert results[1].returncode == 0
    assert "b is master of g now (token 4)" in results[1].stdout
    assert json.loads(cluster("pause", "--json").stdout)["way"] == "board"
    assert [request.command for request in estate.board.read().requests] == ["pause", "switchover"]


def _asked(board: FileBoard, after: str = "") -> Any:
    over = threading.Event()
    for _ in range(int(SECONDS / 0.05)):
        for request in board.read().requests:
            if request.id != after:
                return request
        over.wait(0.05)
    raise AssertionError("nothing was asked")


def test_without_a_token_the_board_is_asked(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        estate = Estate(tmp_path, stack, token=False)
        estate.start("a", "b")
        done = run("switchover", "-c", str(estate.file), "--wait", "500ms")
        assert done.returncode == 1
        assert estate.orders == []
        assert [request.command for request in estate.board.read().requests] == ["switchover"]
