"""Which message is this: the sender's id in the messages of every host library."""

from __future__ import annotations

from typing import Any

import amqp
import pika
import pytest
from kombu import Message
from stomp.utils import Frame

from understudy.duplicates import message_id
from understudy.duplicates.ids import find_message


def kombu_message(**properties: Any) -> Message:
    headers = properties.pop("headers", None)
    return Message(body=b"", properties=properties, headers=headers, channel=None)


@pytest.mark.parametrize(
    "message",
    [
        kombu_message(message_id="m1"),
        kombu_message(headers={"x-understudy-id": "m1"}),
        kombu_message(application_headers={"x-understudy-id": "m1"}),
        amqp.Message(b"", message_id="m1"),
        amqp.Message(b"", application_headers={"x-understudy-id": "m1"}),
        pika.BasicProperties(message_id="m1"),
        pika.BasicProperties(headers={"x-understudy-id": "m1"}),
        Frame("MESSAGE", {"x-understudy-id": "m1", "message-id": "T_1@@session@@1"}),
        Frame("MESSAGE", {"amqp-message-id": "m1", "message-id": "T_1@@session@@1"}),
        {"x-understudy-id": "m1"},
        {"x-understudy-id": b"m1"},
        "m1",
    ],
)
def test_the_id_is_found_wherever_the_host_keeps_it(message: object) -> None:
    assert message_id(message) == "m1"


@pytest.mark.parametrize(
    "message",
    [
        kombu_message(),
        kombu_message(headers={"id": "a task"}, delivery_tag="3"),
        kombu_message(message_id=""),
        amqp.Message(b""),
        pika.BasicProperties(),
        Frame("MESSAGE", {"message-id": "T_1@@session@@1"}),
        {},
        "",
        None,
    ],
)
def test_a_message_without_an_id_of_its_sender_has_none(message: object) -> None:
    assert message_id(message) is None


@pytest.mark.parametrize("thing", [b"body", 7, object(), pika.spec.Basic.Deliver()])
def test_what_can_have_no_id_is_refused_with_what_can(thing: object) -> None:
    with pytest.raises(TypeError, match="BasicProperties"):
        message_id(thing)


def test_an_id_of_the_application_goes_before_ours() -> None:
    assert message_id(kombu_message(message_id="app", headers={"x-understudy-id": "ours"})) == "app"


def test_the_message_is_found_among_the_arguments_of_each_hosts_callback() -> None:
    message = kombu_message(message_id="m1")
    properties = pika.BasicProperties(message_id="m1")
    frame = Frame("MESSAGE", {})
    assert find_message(({"headers": 1}, message)) is message
    assert find_message((object(), pika.spec.Basic.Deliver(), properties, b"")) is properties
    assert find_message((frame,)) is frame
    with pytest.raises(TypeError, match="bytes"):
        find_message((b"body",))
