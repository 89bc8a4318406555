"""A channel above links without sockets: what happens at the moment at which a link is lost."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from pika import frame, spec

from understudy.core.uri import parse
from understudy.failover.deadline import NEVER, Deadline
from understudy.pika.channel import BlockingChannel
from understudy.pika.link import Link
from understudy.pika.link_channel import LinkChannel, LinkLost
from understudy.pika.restoring import REPLIES
from understudy.pika.topology import Topology

Step = Callable[[], None]


class Wire(Link):
    unwritten = 0


class Lab:
    """The session of one channel. Whoever waits gets what the test has put into ``steps``."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.options = parse("amqp://a").options
        self.topology = Topology()
        self.channels: dict[int, Any] = {}
        self.buffered = self.stale_acks = 0
        self.is_closed = False
        self.is_live = True
        self.over: set[int] = set()
        self.steps: deque[Step] = deque()
        self.written = bytearray()
        self.wire = self._link()
        self._tracked = self._fanout = None
        session: Any = self
        self.channel: Any = BlockingChannel(session, session, 1)
        self.channels[1] = self.channel
        self.channel.opening(self.wire)
        self.feed(spec.Channel.OpenOk())

    def _link(self) -> Wire:
        self.written = bytearray()
        return Wire(self.written.extend, pika.ConnectionParameters(), 0)

    # --- the broker -----------------------------------------------------------------------------

    def feed(self, *methods: Any) -> None:
        """In one go, as one read may bring them."""
        self.wire.feed(b"".join(map(encoded, methods)))
        assert self.wire.lost is None, self.wire.lost

    def soon(self, *methods: Any) -> None:
        self.steps.append(lambda: self.feed(*methods))

    def asked(self) -> list[Any]:
        """The methods that came since, without content."""
        found, at = [], 0
        while at < len(self.written):
            size, one = frame.decode_frame(bytes(self.written[at:]))
            at += size
            found.append(one.method)
        self.written.clear()
        return found

    # --- the session ----------------------------------------------------------------------------

    def deadline(self) -> Deadline:
        return NEVER

    def check_open(self) -> None:
        assert not self.is_closed

    def usable(self, deadline: Deadline) -> Wire:
        return self.wire

    begin = usable

    def end(self) -> None: ...

    def wait(self, wire: Wire, is_over: Callable[[], bool], moment: float = 0.0) -> bool:
        while not is_over():
            self.steps.popleft()()
        return True

    def notify(self) -> None: ...

    def _request_channel_dispatch(self, number: int) -> None: ...

    def _forget_unused_queue(self, queue: str) -> None: ...

    def lose(self) -> None:
        self.is_live = False
        self.channel.link_lost(LinkLost("the test says so"))
        self.wire = self._link()

    @contextlib.contextmanager
    def restoring(self) -> Iterator[None]:
        """Lose the link; the block runs while the channel is restored on the next one."""
        self.lose()
        link: LinkChannel = self.channel.restore_on(self.wire)
        answers: list[Any] = [spec.Channel.OpenOk()]
        for one in self.channel.requests():
            link.ask(one, REPLIES[type(one)])
            answers.append(spec.Basic.ConsumeOk("mine"))
        yield
        self.feed(*answers)
        self.asked()
        self.channel.restored(link)
        self.is_live = True


def encoded(method: Any) -> bytes:
    found: bytes = frame.Method(1, method).marshal()
    if isinstance(method, spec.Basic.Deliver | spec.Basic.GetOk):
        found += frame.Header(1, 4, pika.BasicProperties()).marshal()
        found += frame.Body(1, b"body").marshal()
    return found


def delivery(tag: int) -> spec.Basic.Deliver:
    return spec.Basic.Deliver("mine", tag, False, "", "q")


def got(tag: int) -> spec.Basic.GetOk:
    return spec.Basic.GetOk(tag, False, "", "q", 0)


def consume(lab: Lab, callback: Any = lambda *_: None, *, auto_ack: bool = False) -> None:
    lab.soon(spec.Basic.ConsumeOk("mine"))
    lab.channel.basic_consume("q", callback, consumer_tag="mine", auto_ack=auto_ack)


def test_f25_a_get_between_deliveries_makes_no_tag_stand_for_two_messages() -> None:
    """F25: the answer to a get may be looked at after later deliveries were read."""
    lab = Lab()
    tags: list[int] = []
    consume(lab, lambda channel, method, *_: tags.append(method.delivery_tag))
    lab.soon(got(1), delivery(2))
    assert lab.channel.basic_get("q")[0].delivery_tag == 1
    lab.channel._dispatch_events()
    with lab.restoring():
        pass
    lab.feed(delivery(1))
    lab.asked()
    lab.channel.basic_ack(tags[0])
    assert lab.stale_acks == 1
    assert lab.asked() == []


def test_f25_a_get_whose_link_is_lost_before_its_caller_looks_is_asked_again() -> None:
    """F25: another thread read the answer, noticed the loss, and brought the next link."""
    lab = Lab()

    def answer_and_restore() -> None:
        lab.feed(got(7))
        with lab.restoring():
            pass

    lab.steps.append(answer_and_restore)
    lab.soon(got(1))
    assert lab.channel.basic_get("q")[0].delivery_tag == 1
    lab.channel.basic_ack(1)
    assert lab.stale_acks == 0


def test_a_channel_that_is_closed_while_it_is_restored_is_closed_at_the_broker() -> None:
    """Else its consumer would take messages that nobody sees."""
    lab = Lab()
    consume(lab)
    with lab.restoring():
        lab.channel.close()
    assert [type(one) for one in lab.asked()] == [spec.Channel.Close]


def test_a_consumer_that_is_cancelled_while_it_is_restored_is_cancelled_at_the_broker() -> None:
    """What it is sent until then goes back into the queue."""
    lab = Lab()
    consume(lab)
    with lab.restoring():
        lab.channel.basic_cancel("mine")
    [cancel] = lab.asked()
    assert isinstance(cancel, spec.Basic.Cancel)
    lab.feed(delivery(1))
    [reject] = lab.asked()
    assert isinstance(reject, spec.Basic.Reject)
    assert (reject.delivery_tag, reject.requeue) == (1, True)


def test_the_buffer_is_empty_when_nobody_is_left_to_empty_it() -> None:
    """Deliveries with auto_ack are kept over a loss, not over the end of their consumer."""
    lab = Lab()
    consume(lab, auto_ack=True)
    lab.feed(delivery(1))
    assert lab.buffered == len(b"body")
    lab.steps.append(lambda: lab.feed(spec.Channel.CloseOk()))
    lab.channel.close()
    assert lab.buffered == 0


def test_the_buffer_does_not_count_what_comes_while_a_generator_is_cancelled() -> None:
    lab = Lab()
    lab.soon(spec.Basic.ConsumeOk("mine"), delivery(1))
    generator = lab.channel.consume("q", auto_ack=True, consumer_tag="mine")
    assert next(generator)[2] == b"body"
    lab.soon(delivery(2), spec.Basic.CancelOk("mine"))
    lab.channel.cancel()
    assert lab.buffered == 0


def answered_before_a_loss(lab: Lab, *methods: Any) -> None:
    """Another thread reads these, notices the loss, and restores the channel."""

    def step() -> None:
        lab.feed(*methods)
        with lab.restoring():
            pass

    lab.steps.append(step)


def test_f19_a_consumer_whose_link_is_lost_before_its_caller_looks_begins_again() -> None:
    """F19: the channel was restored without it, as nobody had noted it yet."""
    lab = Lab()
    answered_before_a_loss(lab, spec.Basic.ConsumeOk("mine"))
    consume(lab)
    assert [type(one) for one in lab.asked()] == [spec.Basic.Consume]


def test_a_queue_whose_link_is_lost_before_its_caller_looks_is_declared_again() -> None:
    """Else what is sent to it on the next broker reaches no queue."""
    lab = Lab()
    answered_before_a_loss(lab, spec.Queue.DeclareOk("q", 0, 0))
    lab.soon(spec.Queue.DeclareOk("q", 0, 0))
    lab.channel.queue_declare("q")
    assert [type(one) for one in lab.asked()] == [spec.Queue.Declare]
    assert [one.queue for one in lab.topology.methods()] == ["q"]


def test_what_is_lost_and_still_to_be_restored_is_not_asked_for_twice() -> None:
    """It is noted in time for the next link."""
    lab = Lab()
    lab.soon(spec.Basic.ConsumeOk("mine"))
    feed = lab.steps.pop()

    def feed_and_lose() -> None:
        feed()
        lab.lose()

    lab.steps.append(feed_and_lose)
    lab.channel.basic_consume("q", lambda *_: None, consumer_tag="mine")
    assert [one.consumer_tag for one in lab.channel.requests()][:1] == ["mine"]


def settled(lab: Lab) -> list[tuple[type, int, bool]]:
    return [(type(one), one.delivery_tag, one.multiple) for one in lab.asked()]


def test_all_so_far_is_written_only_while_something_is_not_settled() -> None:
    """A broker closes the channel over a tag that it does not wait for."""
    lab = Lab()
    channel = lab.channel
    consume(lab)
    lab.feed(delivery(1), delivery(2), delivery(3))
    channel._dispatch_events()
    lab.asked()
    channel.basic_ack(3)
    channel.basic_ack(0, multiple=True)
    assert settled(lab) == [(spec.Basic.Ack, 3, False), (spec.Basic.Ack, 2, True)]
    channel.basic_ack(0, multiple=True)
    channel.basic_nack(0, multiple=True)
    assert lab.asked() == []


def test_a_rollback_gives_back_what_was_acknowledged_in_its_transaction() -> None:
    lab = Lab()
    channel = lab.channel
    lab.soon(spec.Tx.SelectOk())
    channel.tx_select()
    consume(lab)
    lab.feed(delivery(1))
    channel._dispatch_events()
    lab.asked()
    channel.basic_ack(1)
    lab.soon(spec.Tx.RollbackOk())
    channel.tx_rollback()
    lab.asked()
    channel.basic_ack(0, multiple=True)
    assert settled(lab) == [(spec.Basic.Ack, 1, True)]
    channel.basic_ack(0, multiple=True)
    assert lab.asked() == []


def test_what_is_recovered_does_not_wait_for_an_acknowledgement_any_more() -> None:
    lab = Lab()
    channel = lab.channel
    consume(lab)
    lab.feed(delivery(1))
    channel._dispatch_events()
    lab.soon(spec.Basic.RecoverOk())
    channel.basic_recover(requeue=True)
    lab.asked()
    channel.basic_ack(0, multiple=True)
    assert lab.asked() == []


def test_what_is_recovered_before_anybody_took_it_is_given_out_once() -> None:
    """It comes again, with another tag; the broker would close the channel over an ack of this."""
    lab = Lab()
    channel = lab.channel
    consume(lab)
    lab.feed(delivery(1))
    lab.soon(spec.Basic.RecoverOk())
    channel.basic_recover(requeue=True)
    lab.feed(delivery(2))
    assert [event.method.delivery_tag for event in channel._pending_events] == [2]
    assert lab.buffered == len(channel._pending_events[0].body)


@pytest.mark.parametrize("name", ["basic_cancel", "close"])
def test_what_ends_while_others_are_still_restored_ends_at_the_broker(name: str) -> None:
    """Its consumer is on the new link already, and would take messages that nobody sees."""
    lab = Lab()
    consume(lab)
    with lab.restoring():
        pass
    lab.is_live = False
    lab.soon(spec.Basic.CancelOk("mine") if name == "basic_cancel" else spec.Channel.CloseOk())
    getattr(lab.channel, name)(*["mine"] * (name == "basic_cancel"))
    expected = spec.Basic.Cancel if name == "basic_cancel" else spec.Channel.Close
    assert [type(one) for one in lab.asked()] == [expected]


def test_f17_a_rollback_while_others_are_still_restored_is_one_at_the_broker() -> None:
    """F17: what was replayed on the new link would belong to the next transaction."""
    lab = Lab()
    lab.soon(spec.Tx.SelectOk())
    lab.channel.tx_select()
    lab.lose()
    lab.channel.restore_on(lab.wire)
    lab.feed(spec.Channel.OpenOk())
    lab.channel.restored(lab.channel._fresh)
    lab.asked()
    lab.soon(spec.Tx.RollbackOk())
    lab.channel.tx_rollback()
    assert [type(one) for one in lab.asked()] == [spec.Tx.Rollback]
