"""What a STOMP broker's ERROR is taken for: the texts are those that brokers send."""

from __future__ import annotations

import pytest

from understudy.wire.stomp import RawFrame
from understudyd.bridge.dialects import of_error
from understudyd.bridge.outcomes import LETHAL

STOMP = "org.apache.activemq.transport.stomp.ProtocolException: "


@pytest.mark.parametrize(
    ("message", "body", "code"),
    [
        # RabbitMQ 3.10.8
        ("not_found", "NOT_FOUND - no exchange 'nope' in vhost '/'", 404),
        ("precondition_failed", "PRECONDITION_FAILED - invalid expiration 'abc'", 406),
        ("resource_locked", "RESOURCE_LOCKED - cannot obtain exclusive access", 405),
        ("access_refused", "ACCESS_REFUSED - write access to exchange", 403),
        ("Invalid header", "'message-id' is not allowed on 'SEND'.", 502),
        # ActiveMQ 5.17.2
        ("Maximum frame size exceeded", STOMP + "The maximum frame size was exceeded", 311),
        ("The maximum data length was exceeded", STOMP + "The maximum data", 311),
        ("The maximum header length was exceeded", STOMP, 311),
        ("Invalid transaction id: nope", STOMP + "Invalid transaction id: nope", 502),
        (
            "User app is not authorized to write to: queue://q",
            "java.lang.SecurityException: User app is not authorized",
            403,
        ),
        (
            "Usage Manager Memory Limit reached. Stopping producer",
            "javax.jms.ResourceAllocationException: Usage Manager",
            506,
        ),
        ("peer disposed", "org.apache.activemq.transport.TransportDisposedIOException", 541),
        ("x", "org.apache.activemq.broker.BrokerStoppedException: Broker has been stopped", 320),
        # documented of Artemis
        ("AMQ229032: User: app does not have permission='SEND' on address a", "", 403),
        ("AMQ229102: Address 'a' is full.", "", 506),
        ("", "", 502),
    ],
)
def test_an_error_has_the_code_of_amqp(message: str, body: str, code: int) -> None:
    closed = of_error(RawFrame("ERROR", {"message": message}, body.encode()))
    assert closed.code == code
    assert message in closed.text


def test_what_is_hidden_of_an_address_counts_nevertheless() -> None:
    """What stands behind a colon of one may be a password, but is the class of what happened."""
    message = "temp-queue://ID:host-1:2:1"
    body = (
        b"org.apache.activemq.broker.region.DestinationDoesNotExistException: " + message.encode()
    )
    closed = of_error(RawFrame("ERROR", {"message": message}, body))
    assert (closed.code, closed.text) == (404, "temp-queue://ID:**")


def test_a_message_can_be_at_fault_but_not_for_what_a_broker_lacks() -> None:
    """What is not known is judged by sending it alone: see `outcomes`."""
    assert {311, 406, 502} <= LETHAL.keys()
    assert not {320, 403, 404, 405, 506, 541} & LETHAL.keys()


def test_a_password_in_a_text_is_not_told() -> None:
    said = of_error(RawFrame("ERROR", {"message": "no amqp://me:secret@host"}, b""))
    assert "secret" not in str(said)
