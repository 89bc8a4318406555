"""What is left behind: nothing, however often a link was lost."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from understudy.testing import FaultProxy, wait_until
from understudy.testing.scenarios import Inbox, Scene, consuming

pytestmark = pytest.mark.integration


def census() -> tuple[int, int]:
    """Threads and open files of this process."""
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


def comes_down_to(before: tuple[int, int]) -> bool:
    return wait_until(lambda: all(n <= m for n, m in zip(census(), before, strict=True)))


def report(before: tuple[int, int]) -> str:
    threads = sorted(thread.name for thread in threading.enumerate())
    return f"(threads, files) were {before}, are {census()}: {threads}"


def live(scene: Scene, members: tuple[FaultProxy, FaultProxy], failovers: int, spare: str) -> None:
    """One client from open to close: send, receive, lose the links, and again."""
    options: dict[str, Any] = {spare: "true"}
    client = scene.open(*members, **options)
    inbox = Inbox()
    early = (0, 0)
    with consuming(client, scene.queue, inbox):
        for turn in range(failovers + 1):
            client.send(scene.queue, str(turn))
            assert wait_until(lambda turn=turn: str(turn) in inbox.bodies)  # type: ignore[misc]
            if spare == "backup" and turn in (0, failovers):
                assert wait_until(lambda: all(member.connections for member in members))
            if turn == 0:
                early = census()
            if turn < failovers:
                for member in members:
                    member.reset()
        assert comes_down_to(early), report(early)
    client.close()
    assert wait_until(lambda: not any(member.connections for member in members))


@pytest.mark.scenario("F41")
@pytest.mark.parametrize("spare", ["backup", "priorityBackup"])
def test_no_leaks(scene: Scene, spare: str) -> None:
    """F41: 60 failovers add no thread and no descriptor; a close leaves no connection."""
    members = scene.member(), scene.member()
    live(scene, members, 2, spare)  # what a process starts once is started now
    at_rest = census()
    live(scene, members, 60, spare)
    assert comes_down_to(at_rest), report(at_rest)
