"""Lists and datagrams: what is in them, and what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.discovery.addresses import MOST, read_list
from understudy.discovery.datagram import LARGEST, Announcement, Presence

ADDRESSES = st.lists(
    st.sampled_from(["amqp://a", "amqp://a:1", "amqp://b/vh", "stomp://[::1]:2", "x"]), max_size=8
)
SEPARATORS = st.sampled_from([",", "\n", " ,\n", "\r\n", ", ", "\n\n", ",,", "\n# a,b\n"])


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("amqp://a,amqp://b", ("amqp://a", "amqp://b")),
        ("amqp://a\namqp://b\n", ("amqp://a", "amqp://b")),
        (" amqp://a ,\r\n\tamqp://b,", ("amqp://a", "amqp://b")),
        ("# ours\namqp://a\n  # amqp://b\n", ("amqp://a",)),
        ("\ufeffamqp://a", ("amqp://a",)),
        ("amqp://a,amqp://a", ("amqp://a",)),
        ("# none", ()),
        ("", ()),
    ],
)
def test_f45_commas_and_line_ends_separate(text: str, addresses: tuple[str, ...]) -> None:
    assert read_list(text) == addresses


@given(ADDRESSES, st.lists(SEPARATORS, min_size=9, max_size=9))
def test_any_mixture_of_separators(addresses: list[str], separators: list[str]) -> None:
    text = "".join(a + s for a, s in zip(addresses, separators, strict=False))
    assert read_list(text) == tuple(dict.fromkeys(addresses))


@given(st.text())
def test_any_text_is_a_list_of_something(text: str) -> None:
    for address in read_list(text):
        assert address == address.strip()
        assert "," not in address
        assert not address.startswith("#") or "," in text


# --- datagrams ------------------------------------------------------------------------------------

ALIVE = b"default.ActiveMQ-4.alive.%localhost%tcp://mq1:61616"


def test_an_announcement_of_activemq() -> None:
    announcement = Announcement.decode(ALIVE, "default")
    assert announcement == Announcement("default", "tcp://mq1:61616")
    assert announcement.encode() == ALIVE
    gone = Announcement.decode(ALIVE.replace(b"alive", b"dead"), "default")
    assert gone == Announcement("default", "tcp://mq1:61616", is_alive=False)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"default",
        b"other" + ALIVE,
        ALIVE.replace(b"default", b"other"),
        ALIVE.replace(b"ActiveMQ-4", b"ActiveMQ-5"),
        ALIVE.replace(b"alive", b"undead"),
        ALIVE.replace(b"alive.", b"alive"),
        ALIVE.replace(b"%", b"/"),
        ALIVE.replace(b"tcp://mq1:61616", b""),
        ALIVE + b"\n",
        ALIVE + b" x",
        ALIVE + b"\0",
        ALIVE + b"\xff",
        ALIVE + b"a" * LARGEST,
        ALIVE + b"a" * 1024,
    ],
)
def test_what_is_no_announcement_is_ignored(data: bytes) -> None:
    assert Announcement.decode(data, "default") is None


def test_an_address_may_hold_percent_signs() -> None:
    announcement = Announcement("g", "amqp://mq1/%2fvh%2f")
    assert Announcement.decode(announcement.encode(), "g") == announcement


@given(st.binary(max_size=200))
def test_any_bytes_are_ignored_or_understood(data: bytes) -> None:
    for begin in (b"", b"g.ActiveMQ-4.", b"g.ActiveMQ-4.alive.%h%"):
        found = Announcement.decode(begin + data, "g")
        assert found is None or found.encode() == begin + data


@given(
    st.text("aZ0._-", min_size=1, max_size=20),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60),
    st.booleans(),
)
def test_there_and_back(group: str, address: str, is_alive: bool) -> None:
    announcement = Announcement(group, address, is_alive)
    assert Announcement.decode(announcement.encode(), group) == announcement


# --- who is there ---------------------------------------------------------------------------------


def said(address: str, *, is_alive: bool = True) -> Announcement:
    return Announcement("default", address, is_alive)


def test_d05_a_broker_comes_and_goes() -> None:
    presence = Presence(5.0)
    presence.hear(said("a"), 0.0)
    presence.hear(said("b"), 1.0)
    assert list(presence.addresses) == ["a", "b"]
    presence.hear(said("a", is_alive=False), 2.0)
    presence.hear(said("c", is_alive=False), 2.0)
    assert list(presence.addresses) == ["b"]


def test_d05_a_broker_that_is_not_heard_for_its_lifetime_is_gone() -> None:
    presence = Presence(5.0)
    presence.hear(said("a"), 0.0)
    presence.hear(said("b"), 3.0)
    presence.expire(5.0)
    assert list(presence.addresses) == ["a", "b"]
    presence.expire(5.1)
    assert list(presence.addresses) == ["b"]
    presence.hear(said("b"), 7.0)
    presence.expire(12.0)
    assert list(presence.addresses) == ["b"]


def test_a_flood_of_forged_announcements_ends_at_a_bound() -> None:
    presence = Presence(5.0)
    presence.hear(said("real"), 0.0)
    for number in range(10 * MOST):
        presence.hear(said(f"forged{number}"), 0.1)
    assert len(presence.addresses) == MOST + 1  # one more shows that some were left out
    assert presence.addresses[0] == "real"
    presence.hear(said("real"), 4.0)
    presence.expire(5.2)
    assert list(presence.addresses) == ["real"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(0, 3)), max_size=30))
def test_who_is_there_is_who_was_heard_last_within_the_lifetime(
    told: list[tuple[str, bool, float]],
) -> None:
    presence, now, heard = Presence(5.0), 0.0, dict[str, float]()
    for address, is_alive, pause in told:
        now += pause
        presence.hear(said(address, is_alive=is_alive), now)
        presence.expire(now)
        heard.pop(address, None) if not is_alive else heard.update({address: now})
        heard = {one: at for one, at in heard.items() if now - at <= 5.0}
        assert set(presence.addresses) == set(heard)
