"""py-amqp's channel, whose questions and answers are not disturbed by other threads."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from kombu.transport import pyamqp

__all__ = ["BoundedChannel"]


class BoundedChannel(pyamqp.Channel):
    def undisturbed(self, ask: Callable[[], Any]) -> Any:
        """A request and its answer, with no other thread reading meanwhile.

        Or it might read the answer before it is waited for: Celery asks in threads of its pool, on
        a connection that its main thread reads. TimeoutError, and nothing asked, when another one
        reads for longer than a reply may take.
        """
        with self.connection.reading(self.connection.reply_limit()):
            return ask()

    def send_method(
        self,
        sig: Any,
        format: Any = None,
        args: Any = None,
        content: Any = None,
        wait: Any = None,
        callback: Any = None,
        returns_tuple: bool = False,
    ) -> Any:
        request = sig, format, args, content, wait, callback, returns_tuple
        if wait is None or self.connection is None:
            return super().send_method(*request)
        ask = super().send_method
        return self.undisturbed(lambda: ask(*request))

    @functools.wraps(pyamqp.Channel.queue_declare)  # its parameters are looked up
    def queue_declare(self, *args: Any, **options: Any) -> Any:
        """The only one that asks and waits in two steps."""
        ask = super().queue_declare
        if options.get("nowait") or self.connection is None:
            return ask(*args, **options)
        return self.undisturbed(lambda: ask(*args, **options))
