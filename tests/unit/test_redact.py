"""Passwords never show, whatever the text is."""

from __future__ import annotations

import time
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy import ConfigurationError, parse, redact
from understudy.core.redact import is_secret

MARKS = ("Zq7", "Xw9", "Kv5")  # none of them may be seen
SCHEMES = frozenset({"amqp", "stomp", "redis", "foo"})

ADDRESSES = (
    "amqp://user:{}@host:5672/vh",
    "failover:(amqp://user:{}@h1,amqp://h2)?timeout=5",
    "failover:amqp://h2,stomp://user:{}@h1",
    "failover://(static:(amqp://user:{}@h1),amqp://b)?nested.heartbeat=5",
    "failover:(amqp://user:{}@h:99999)",
    "failover:(amqp://user:{}@h",
    "failover:(ampq://user:{}@h)",
    "failover:(amqp://h)?priorityURIs=amqp://user:{}@h",
    "failover:()?updateURIsURL=http://user:{}@h/x",
    "discovery:(http://user:{}@h/x)",
    "redis://:{}@h",
)
WITHOUT_SCHEME = ("amqp:user:{}@h", "user:{}@h", "failover:(user:{}@h,amqp://b)")
QUERIES = (
    "failover:(amqp://h?password={}&x=1,amqp://b)",
    "failover:(amqp://h)?nested.password={}",
    "failover:(amqp://h)?nested.password={}&randomize=x",
    "failover:(amqp://h?token={})?bad=1",
)
ODD = (
    "kafka://user:{}@h:1",
    "amqp://h?x={}",
    "amqp://h/{}",
    "amqp://user@{}",
    "failover:(amqp://h,stomp://{})",
    "amqp://{}@h?timeout=5",
)

passwords = st.lists(st.text("@:/%;,()?&=#[] .*", max_size=3), min_size=3, max_size=3).map(
    lambda parts: "".join(mark + part for mark, part in zip(MARKS, parts, strict=True))
)


def everything_shown(text: str) -> list[str]:
    """What a user can get to see of an address."""
    try:
        uri = parse(text, schemes=SCHEMES)
    except ConfigurationError as error:
        return [str(error), repr(error)]
    shown = [str(uri), repr(uri), repr(uri.options), repr(uri.endpoints)]
    return [*shown, *map(str, uri.endpoints)]


def errors_about(text: str, schemes: frozenset[str] | None) -> list[str]:
    try:
        parse(text, schemes=schemes)
    except ConfigurationError as error:
        return [str(error)]
    return []


def assert_hidden(*shown: str) -> None:
    for text in shown:
        assert not [mark for mark in MARKS if mark in text], text


@given(template=st.sampled_from(ADDRESSES + WITHOUT_SCHEME), password=passwords)
@settings(max_examples=200, deadline=None)
def test_a_raw_password_is_in_no_output_and_no_error(template: str, password: str) -> None:
    text = template.format(password)
    assert_hidden(*everything_shown(text))
    if " " not in password and template not in WITHOUT_SCHEME:
        assert_hidden(redact(text))


@given(template=st.sampled_from(ADDRESSES + QUERIES), password=passwords)
@settings(max_examples=150, deadline=None)
def test_an_encoded_password_is_in_no_output_and_no_error(template: str, password: str) -> None:
    text = template.format(quote(password, safe=""))
    assert_hidden(*everything_shown(text), redact(text))


@given(template=st.sampled_from(QUERIES), password=passwords)
@settings(max_examples=100, deadline=None)
def test_a_raw_secret_option_is_in_no_output_and_no_error(template: str, password: str) -> None:
    value = password.replace("&", "").replace("=", "")  # which would be other options
    assert_hidden(*everything_shown(template.format(value)))
    if " " not in value:
        assert_hidden(redact(template.format(value)))


@given(
    template=st.sampled_from(ADDRESSES + WITHOUT_SCHEME + QUERIES + ODD),
    password=passwords | passwords.map(lambda text: quote(text, safe="")),
    schemes=st.sampled_from((SCHEMES, None)),
)
@settings(max_examples=400, deadline=None)
def test_an_error_is_whole_when_it_is_masked_again(
    template: str, password: str, schemes: frozenset[str] | None
) -> None:
    text = template.format(password)
    shown = redact(text, strict=True)
    for error in errors_about(text, schemes):
        told = f'a.toml: bridges.x.source = "{shown}" is no address: {error}'
        assert redact(error) == error
        assert redact(told) == told


@given(text=st.text())
@settings(max_examples=100, deadline=None)
def test_any_string_can_be_redacted(text: str) -> None:
    assert isinstance(redact(text), str)
    assert isinstance(redact(text, strict=True), str)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("amqp://a:5672//", "amqp://a:5672//"),
        ("amqp://guest@a", "amqp://guest@a"),
        ("amqp://guest:guest@a:1/%2f", "amqp://guest:**@a:1/%2f"),
        ("amqp://u:p@[::1]:5672", "amqp://u:**@[::1]:5672"),
        ("amqp://u:p@ss@a", "amqp://u:**@a"),
        ("amqp://u:pa/ss@a", "amqp://u:**@a"),
        (
            "failover:(amqp://u:p@a,stomp://v:q@b)?x=1",
            "failover:(amqp://u:**@a,stomp://v:**@b)?x=1",
        ),
        ("failover://amqp://u:p@a,amqp://b", "failover://amqp://u:**@a,amqp://b"),
        ("sqs://key:secret@", "sqs://key:**@"),
        ("azurestoragequeues://accountkey@https://x", "azurestoragequeues://**@https://x"),
        ("failover:(amqp://a?password=x,y,amqp://b)", "failover:(amqp://a?password=**,amqp://b)"),
        ("http://h/x?access_token=abc&z=1", "http://h/x?access_token=**&z=1"),
        ("amqp://a?ssl_keyfile=/k&key=abc", "amqp://a?ssl_keyfile=/k&key=**"),
        ("connecting to amqp://u:p@a: refused", "connecting to amqp://u:**@a: refused"),
        ("amqp://a:5672: refused", "amqp://a:5672: refused"),
        ("amqp://[::1]:5672: refused", "amqp://[::1]:5672: refused"),
        ("no address here: 5 of 7", "no address here: 5 of 7"),
        ("login failed, password=abc (try again)", "login failed, password=** (try again)"),
        ('no "amqp://u:**@a": raw "@" in it', 'no "amqp://u:**@a": raw "@" in it'),
        ('no "amqp://u:**@a" nor v:q@b', 'no "amqp://u:**@a" nor v:**@b'),
        ("amqp://u:**@q@a", "amqp://u:**@a"),
        ("no amqp://b: in ****@h,amqp://b", "no amqp://b: in ****@h,amqp://b"),
        ("no kafka://**@a, password=**; see @b", "no kafka://**@a, password=**; see @b"),
        ("", ""),
    ],
)
def test_examples(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


@pytest.mark.parametrize("name", ["password", "PASSWD", "pwd", "secret", "token", "key", "api_key"])
def test_secret_names(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", ["keyfile", "certfile", "timeout", "heartbeat", "vhost"])
def test_other_names(name: str) -> None:
    assert not is_secret(name)


@pytest.mark.parametrize(
    "piece",
    ["(", ")", ",", ":", "@", "%", "://", "a://", "a=)", ",x=%", "(x=%40", "(password=%40", ",a"],
)
def test_hostile_texts_take_linear_time(piece: str) -> None:
    text = piece * (50_000 // len(piece))
    begin = time.process_time()
    redact(text)
    redact("?password=" + text)
    assert time.process_time() - begin < 2  # quadratic would be minutes
