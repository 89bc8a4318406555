"""A function of the user's that messages go through: what it may do, and what its faults cost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from understudy.errors import ConfigurationError
from understudyd.bridge.content import AmqpContent, Dropped, StompContent, Untranslatable
from understudyd.bridge.dialects import ACTIVEMQ, RABBITMQ_AMQP
from understudyd.bridge.routes import Options, Routes
from understudyd.bridge.transform import Message, Transformer, load
from understudyd.bridge.wire import properties
from understudyd.testing.translated import translate

NOW = 1_700_000_000_000


def changed(function: Callable[[Message], object], **fields: object) -> AmqpContent:
    """A message of RabbitMQ after the function, at another RabbitMQ."""
    transformer = Transformer("m:f", function)  # type: ignore[arg-type]
    routes = Routes(
        Options(transformer=transformer, network_ttl=3, headers_set={"site": "hq"}), "a", "b"
    )
    content = AmqpContent(properties.build(fields), b"body")  # type: ignore[arg-type]
    sent = translate(content, RABBITMQ_AMQP, RABBITMQ_AMQP, NOW, routes.change)
    assert isinstance(sent, AmqpContent)
    return sent


def with_field(message: Message, name: str, value: object) -> Message:
    setattr(message, name, value)
    return message


def test_what_it_changes_goes_on_and_all_else_stays() -> None:
    def edit(message: Message) -> Message:
        message.body += b"!"
        message.headers["n"] = "6"
        message.headers["site"] = "mine"
        message.properties["type"] = "edited"
        message.priority = 7
        return message

    given = {"headers": {"n": 5, "nested": {"a": [1.5]}}, "delivery_mode": 2, "app_id": "x"}
    sent = changed(edit, **given)
    assert sent.body == b"body!"
    fields = properties.read(sent.properties)
    assert fields.pop("headers") == {
        "n": 6,
        "nested": {"a": [1.5]},
        "site": "hq",
        "x-understudy-path": "a",
    }
    assert fields == {"delivery_mode": 2, "app_id": "x", "type": "edited", "priority": 7}


def test_another_message_may_be_returned_and_the_path_stays() -> None:
    def replace(message: Message) -> Message:
        other = Message(b"other")
        other.headers = {"x-understudy-path": "forged", "x-understudy-new": "forged", "a": "b"}
        return other

    sent = changed(replace, headers={"x-understudy-path": "c"}, priority=3)
    assert sent.body == b"other"
    headers = properties.get(sent.properties, "headers")
    assert headers == {"a": "b", "site": "hq", "x-understudy-path": "c,a"}


def test_a_header_that_is_no_number_any_more_is_text() -> None:
    def edit(message: Message) -> Message:
        message.headers["n"] = "six"
        return message

    sent = changed(edit, headers={"n": 5})
    assert properties.get_header(sent.properties, "n") == "six"


def test_none_drops_the_message() -> None:
    with pytest.raises(Dropped, match="m:f has dropped it"):
        changed(lambda message: None)


@pytest.mark.parametrize(
    ("returned", "why"),
    [
        (lambda message: message.headers["missing"], "m:f failed: KeyError 'missing'"),
        (lambda message: sys.exit("no"), "m:f failed: SystemExit no"),
        (lambda message: "text", "m:f returned something of type str, not a message"),
        (lambda message: with_field(message, "body", "text"), "a body of type str"),
        (lambda message: with_field(message, "headers", {"n": 5}), "a header 'n' of type int"),
        (lambda message: with_field(message, "priority", "5"), "a priority of type str"),
        (lambda message: with_field(message, "kind", 5), "a kind that is 5, not 'text'"),
        (lambda message: with_field(message, "types", {"a": 5}), "a type 'a' of type int"),
        (
            lambda message: with_field(message, "headers", {"a": "\ud800"}),
            "a header 'a' with a lone surrogate",
        ),
        (
            lambda message: with_field(message, "properties", {"\ud800": "a"}),
            "a property '\\ud800' with a lone surrogate",
        ),
    ],
)
def test_what_goes_wrong_parks_the_message_with_its_reason(
    returned: Callable[[Message], object], why: str
) -> None:
    with pytest.raises(Untranslatable) as raised:
        changed(returned)
    assert raised.value.reason.startswith("m:f ")
    assert why in raised.value.reason
    assert "\n" not in raised.value.reason


def test_it_works_on_the_way_to_stomp_too() -> None:
    def edit(message: Message) -> Message:
        message.body = b"text"
        message.kind = "text"
        return message

    routes = Routes(Options(transformer=Transformer("m:f", edit)), "a", "b")
    content = AmqpContent(properties.build({}), b"\xff")
    sent = translate(content, RABBITMQ_AMQP, ACTIVEMQ, NOW, routes.change)
    assert isinstance(sent, StompContent)
    assert (sent.body, sent.has_length) == (b"text", False)


@pytest.fixture
def module(tmp_path: Path) -> Iterator[Path]:
    path = list(sys.path)
    (tmp_path / "bridged_functions.py").write_text(
        "def fine(message): return message\n"
        "def optional(message, more=1): return message\n"
        "def two(message, more): return message\n"
        "async def later(message): return message\n"
        "text = 'x'\n"
    )
    (tmp_path / "bridged_broken.py").write_text("1 / 0")
    (tmp_path / "bridged_script.py").write_text("raise SystemExit(3)")
    yield tmp_path
    sys.path[:] = path
    sys.modules.pop("bridged_functions", None)


@pytest.mark.parametrize("text", ["bridged_functions:fine", "bridged_functions:optional"])
def test_it_is_found_beside_the_configuration(module: Path, text: str) -> None:
    message = Message(b"body")
    load(text, module)(message)
    assert message.body == b"body"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("bridged_nowhere:f", "can't be imported: ModuleNotFoundError"),
        ("bridged_broken:f", "can't be imported: ZeroDivisionError"),
        ("bridged_script:f", "can't be imported: SystemExit: 3"),
        ("bridged_functions:fin", "no function 'fin' .there are: fine, later, optional, two"),
        ("bridged_functions:text", "no function 'text'"),
        ("bridged_functions:two", "takes one argument"),
        ("bridged_functions:later", "a plain function"),
    ],
)
def test_what_is_no_such_function_is_told_at_load(module: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        load(text, module)
