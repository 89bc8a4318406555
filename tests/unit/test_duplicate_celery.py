"""Celery tasks that drop duplicates, run by Celery's own tracer without a worker."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from celery import Celery, states
from celery.app.trace import trace_task

from understudy.duplicates import DuplicateWindow
from understudy.duplicates.celery import once


class Shop:
    """An application with one task that drops duplicates."""

    def __init__(self) -> None:
        self.window = DuplicateWindow()
        self.ran: list[object] = []
        self.task_id = uuid.uuid4().hex  # all applications of a process share cache+memory
        self.app = Celery(
            "shop", broker="memory://", backend="cache+memory://", set_as_current=False
        )
        self.raises: Exception | None = None

        def work(task: Any, value: object) -> object:
            self.ran.append(value)
            if self.raises is not None:
                raise self.raises
            return value

        self.task = self.app.task(name="work", bind=True, shared=False, base=once(self.window))(
            work
        )
        self.other = self.app.task(name="other", bind=True, shared=False, base=once(self.window))(
            work
        )

    def run(self, task: Any = None, value: object = 1, **request: Any) -> str:
        """Run a delivery of the task; the state in which it ended."""
        task, task_id = task or self.task, self.task_id
        request = {
            "id": task_id,
            "task": task.name,
            "delivery_info": {},
            "is_eager": False,
            **request,
        }
        outcome = trace_task(task, task_id, [value], {}, request, app=self.app)
        return str(outcome.info.state) if outcome.info is not None else states.SUCCESS


@pytest.fixture
def shop() -> Shop:
    return Shop()


def test_a_redelivery_is_dropped_and_leaves_the_result(shop: Shop) -> None:
    assert shop.run(value="first") == states.SUCCESS
    assert shop.run(value="second") == states.IGNORED
    assert shop.ran == ["first"]
    assert shop.app.AsyncResult(shop.task_id).result == "first"


def test_a_failed_task_runs_again(shop: Shop) -> None:
    shop.raises = ValueError("no")
    assert shop.run() == states.FAILURE
    shop.raises = None
    assert shop.run() == states.SUCCESS
    assert len(shop.ran) == 2


def test_a_retry_is_no_duplicate_and_its_own_copy_is_one(shop: Shop) -> None:
    assert shop.run() == states.SUCCESS
    assert shop.run(retries=1) == states.SUCCESS
    assert shop.run(retries=1) == states.IGNORED
    assert len(shop.ran) == 2


def test_asking_for_a_retry_is_not_done(shop: Shop) -> None:
    """Killed between sending the retry and the acknowledgement, the delivery comes again."""

    def ask(task: Any, _: object) -> None:
        shop.ran.append(task.request.retries)
        raise task.retry(countdown=3600)

    asking = shop.app.task(name="asking", bind=True, shared=False, base=once(shop.window))(ask)
    assert [shop.run(task=asking), shop.run(task=asking)] == [states.RETRY, states.RETRY]
    assert shop.ran == [0, 0]


def test_another_task_of_the_same_id_is_no_duplicate(shop: Shop) -> None:
    """A task that is replaced hands its id on."""
    assert shop.run() == states.SUCCESS
    assert shop.run(task=shop.other) == states.SUCCESS
    assert shop.run(replaced_task_nesting=1) == states.SUCCESS


def test_a_task_whose_result_was_not_stored_runs_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its callbacks and its chain would be lost otherwise."""

    def fail(*_: object, **__: object) -> None:
        raise shop.task.OperationalError("no result backend")

    with monkeypatch.context() as patch:
        patch.setattr(shop.task.backend, "mark_as_done", fail)
        with pytest.warns(RuntimeWarning, match="no result backend"):
            shop.run()
    assert shop.run() == states.SUCCESS
    assert len(shop.ran) == 2


def test_tasks_that_came_in_no_message_always_run(shop: Shop) -> None:
    assert [shop.task(1), shop.task(1)] == [1, 1]
    for _ in range(2):
        assert shop.task.apply([2], task_id="same").result == 2
    assert shop.ran == [1, 1, 2, 2]
