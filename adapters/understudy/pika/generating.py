"""`consume`: deliveries as a generator, which goes on over failovers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from pika.adapters import blocking_connection as blocking

from understudy.failover.notifier import logger
from understudy.pika.consuming import Cancellation, Consuming, Delivery

__all__ = ["Generating"]


class Generating(Consuming):
    def consume(
        self,
        queue: str,
        auto_ack: bool = False,
        exclusive: bool = False,
        arguments: dict[str, Any] | None = None,
        inactivity_timeout: float | None = None,
        consumer_tag: str | None = None,
    ) -> Iterator[tuple[Any, Any, Any]]:
        """As pika's: yields (method, properties, body) until it is cancelled."""
        self._raise_if_not_open()
        self._begin_generator((queue, auto_ack, exclusive), arguments, consumer_tag)
        while True:
            given = self._next_of_generator()
            if given is None:
                return
            if given:
                yield given
                continue
            if inactivity_timeout is None:
                self._process_data_events(time_limit=None)
                continue
            until = time.monotonic() + inactivity_timeout
            while self.get_waiting_message_count() == 0 and self._generator_is_idle():
                left = until - time.monotonic()
                if left <= 0:
                    yield None, None, None
                    break
                self._process_data_events(time_limit=left)

    def _begin_generator(
        self,
        params: tuple[str, bool, bool],
        arguments: dict[str, Any] | None,
        consumer_tag: str | None,
    ) -> None:
        known = self._queue_consumer_generator
        if known is not None:
            if params != known.params:
                raise ValueError(
                    "Consume with different params not allowed on existing queue consumer "
                    f"generator; previous params: {known.params!r}; new params: {params!r}"
                )
            return
        queue, auto_ack, exclusive = params
        tag = consumer_tag or self._generate_consumer_tag()
        generator = blocking._QueueConsumerGeneratorInfo(params, tag)
        self._queue_consumer_generator = generator
        try:
            self._basic_consume_impl(
                queue=queue,
                auto_ack=auto_ack,
                exclusive=exclusive,
                consumer_tag=tag,
                arguments=arguments,
                alternate_event_sink=self._on_consumer_generator_event,
            )
        except BaseException:
            self._queue_consumer_generator = None
            raise

    def _on_consumer_generator_event(self, event: Any) -> None:
        generator = self._queue_consumer_generator
        if generator is not None:
            generator.pending_events.append(event)
            self._connection._request_channel_dispatch(-self.number)
        elif type(event) is Delivery:
            self._session.buffered -= len(event.body)  # of auto_ack, on its way while cancelled

    def _next_of_generator(self) -> tuple[Any, ...] | None:
        """The next message; empty when there is none now, None when there will be none."""
        with self._session.lock:
            generator = self._queue_consumer_generator
            if generator is None:
                return None
            if not generator.pending_events:
                return ()
            event = generator.pending_events.popleft()
            if type(event) is Cancellation:
                self._queue_consumer_generator = None
                self._forget_consumer(generator.consumer_tag)
                return None
            self._session.buffered -= len(event.body)
            self._taken = event.method.delivery_tag
            return event.method, event.properties, event.body

    def _generator_is_idle(self) -> bool:
        generator = self._queue_consumer_generator
        return generator is not None and not generator.pending_events

    def get_waiting_message_count(self) -> int:
        """Messages that `consume` yields without waiting."""
        generator = self._queue_consumer_generator
        events = list(generator.pending_events) if generator is not None else []
        return sum(type(event) is Delivery for event in events)

    def cancel(self) -> int:
        """Cancel the consumer of `consume`; what it has not yielded goes back. Returns 0."""
        with self._session.lock:
            generator, self._queue_consumer_generator = self._queue_consumer_generator, None
            if generator is None:
                logger.warning("cancel: there is no consumer generator any more")
                return 0
            unseen = [event for event in generator.pending_events if type(event) is Delivery]
            self._session.buffered -= sum(len(event.body) for event in unseen)
            if not generator.params[1]:
                self._give_back(unseen)
            self.basic_cancel(generator.consumer_tag)
        return 0

    def _cancel_all_consumers(self) -> None:
        if self._queue_consumer_generator is not None:
            self.cancel()
        for tag in list(self._consumer_infos):
            self.basic_cancel(tag)

    def stop_consuming(self, consumer_tag: str | None = None) -> None:
        """Cancel one consumer, or all; `start_consuming` returns when none is left."""
        if consumer_tag:
            self.basic_cancel(consumer_tag)
        else:
            self._cancel_all_consumers()
