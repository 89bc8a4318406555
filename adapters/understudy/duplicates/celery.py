"""Celery tasks that do their work once for each message.

Rules
* A message is a task's name, its id, and how often it was retried and replaced: a retry is another
  message than the try before it, a redelivery and a resend are the same one.
* The task is done when Celery has sent its callbacks and stored its result. Only then is it
  recorded; with ``acks_late`` the acknowledgement comes after that.
* A duplicate ends as `Ignore`: it is acknowledged, and the result of the first stays.
* Tasks that no worker runs (called directly, eager) were in no message and are always run.
"""

from __future__ import annotations

from typing import Any

try:
    from celery import Task, signals, states
    from celery.exceptions import Ignore
except ModuleNotFoundError as exc:
    if exc.name != "celery":
        raise
    raise ModuleNotFoundError(
        "understudy.duplicates.celery needs Celery: pip install celery", name="celery"
    ) from exc

from understudy.duplicates.window import DuplicateWindow, Processing
from understudy.failover.notifier import logger

__all__ = ["OnceTask", "once"]


class OnceTask(Task):  # type: ignore[misc]
    """A task whose duplicates are dropped; made by `once`."""

    abstract = True
    window: DuplicateWindow

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        request = self.request
        if request.called_directly or request.is_eager or request.id is None:
            return super().__call__(*args, **kwargs)
        work = self.window.processing(message_of(self))
        if not work.begin():
            logger.info("task %s[%s] was already done; dropped", self.name, request.id)
            raise Ignore("already done")
        try:
            result = super().__call__(*args, **kwargs)
        except BaseException:
            work.end(False)
            raise
        request.understudy_processing = work
        return result

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        _end(self, status == states.SUCCESS)
        super().after_return(status, retval, task_id, args, kwargs, einfo)


def _end(task: Any, is_done: bool) -> None:
    work: Processing | None = getattr(task.request, "understudy_processing", None)
    if work is not None:
        work.end(is_done)


def _release(sender: Any = None, **_: Any) -> None:
    """Celery failed after the work (no result backend), and `after_return` was not called."""
    _end(sender, False)


signals.task_postrun.connect(_release)


def message_of(task: Any) -> str:
    """The identity of the message that a task is running for."""
    request = task.request
    replaced = getattr(request, "replaced_task_nesting", 0) or 0
    return f"{task.name}/{request.id}/{request.retries or 0}/{replaced}"


def once(window: DuplicateWindow) -> type[OnceTask]:
    """A base class for tasks: ``@app.task(base=once(window), acks_late=True)``.

    A window in memory is each pool process's own; take `SQLiteStore` or `RedisStore` for more.
    """
    return type("OnceTask", (OnceTask,), {"abstract": True, "window": window})
