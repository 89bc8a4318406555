"""The ends of a link are those that its URIs ask for, and so is what goes between them."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from understudy import ConfigurationError
from understudyd.bridge.ends.endpoints import Dialer, StompDialer
from understudyd.bridge.ends.port import SourceHooks, TargetHooks
from understudyd.bridge.forward import Forwarder
from understudyd.bridge.forward_translated import TranslatingForwarder
from understudyd.bridge.joints import Span, dialer_of, join
from understudyd.bridge.mapping import Message
from understudyd.bridge.names import Pattern
from understudyd.bridge.routes import Options, Routes

AMQP, STOMP = "amqp://a", "stomp://b"


def made(source: str, target: str, text: str = "queue://orders", **options: Any) -> Any:
    routes = Routes(Options(**options), "a/", "b/")
    hooks: tuple[SourceHooks[Any], TargetHooks] = (
        SourceHooks(print, print),
        TargetHooks(print, print, print, print, print),
    )
    here, there = (dialer_of(uri, {}, Random(1)) for uri in (source, target))
    return join(Span("b", here, Pattern.parse(text), there, routes), hooks)


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("amqp://a", Dialer),
        ("amqps://a,amqp://b", Dialer),
        ("stomp://a", StompDialer),
        ("stomp+ssl://a", StompDialer),
        ("masterslave:(stomp://a,stomp+ssl://b)", StompDialer),
    ],
)
def test_the_scheme_says_what_an_end_speaks(uri: str, kind: type) -> None:
    uri = f"failover:({uri})" if "," in uri and ":(" not in uri else uri
    assert type(dialer_of(uri, {}, Random(1))) is kind


@pytest.mark.parametrize("uri", ["failover:(amqp://a,stomp://b)", "redis://a"])
def test_a_list_speaks_one_protocol(uri: str) -> None:
    with pytest.raises(ConfigurationError):
        dialer_of(uri, {}, Random(1))


def nothing(message: Message) -> None: ...


def test_bytes_go_through_between_two_ends_of_amqp_unless_somebody_wants_to_see_them() -> None:
    assert type(made(AMQP, AMQP).forwarder) is Forwarder
    assert type(made(AMQP, AMQP, transformer=nothing).forwarder) is TranslatingForwarder
    for pair in ((AMQP, STOMP), (STOMP, AMQP), (STOMP, STOMP)):
        assert type(made(*pair).forwarder) is TranslatingForwarder


def test_a_pattern_of_queues_is_for_brokers_that_have_such() -> None:
    with pytest.raises(ConfigurationError, match="no wildcards for queues"):
        made(AMQP, STOMP, "queue://orders.>")
    made(STOMP, AMQP, "queue://orders.>")
