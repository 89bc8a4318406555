"""Messages on their way out, and the URI that hides its passwords."""

from __future__ import annotations

import copy
import json
import pickle

import amqp

from understudy.kombu.masking import MaskedURI, raw_uri
from understudy.kombu.message import ID_HEADER, RESEND_HEADER, OutMessage, without_our_headers

SECRET = "failover:(amqp://user:s%40cret@a:5672//,amqp://u:pw2@b//)?timeout=10"


def test_every_message_gets_an_id_of_its_own() -> None:
    headers = {"mine": 1}
    first, second = (OutMessage("body", headers=headers) for _ in range(2))
    assert first.message_id != second.message_id
    assert first.headers[ID_HEADER] == first.message_id
    assert headers == {"mine": 1}, "the caller's headers are his"


def test_the_applications_own_message_id_is_used() -> None:
    message = OutMessage("body", properties={"message_id": "order-7"})
    assert message.message_id == "order-7"
    assert ID_HEADER not in message.headers


def test_a_resend_says_so_and_keeps_the_id() -> None:
    message = OutMessage("body")
    before = message.message_id
    assert RESEND_HEADER not in message.for_amqp().properties["application_headers"]
    message.mark_resend()
    sent = message.for_amqp().properties["application_headers"]
    assert sent[RESEND_HEADER] is True
    assert sent[ID_HEADER] == before


def test_only_celery_tasks_are_tasks() -> None:
    assert OutMessage("b", headers={"task": "t", "id": "i"}).is_task
    assert not OutMessage("b", headers={"hostname": "event"}).is_task
    assert not OutMessage("b").is_task


def test_a_py_amqp_message_is_taken_apart_and_put_together() -> None:
    original = amqp.Message(
        "body", content_type="text/plain", application_headers={"a": 1}, delivery_mode=2
    )
    rebuilt = OutMessage.of(original).for_amqp()
    assert rebuilt.body == "body"
    assert rebuilt.properties["content_type"] == "text/plain"
    assert rebuilt.properties["delivery_mode"] == 2
    assert rebuilt.properties["application_headers"]["a"] == 1


def test_a_masked_uri_shows_no_password_and_stays_itself() -> None:
    masked = MaskedURI(SECRET)
    shown = [str(masked), repr(masked), f"{masked}", json.dumps(masked), "%s" % masked]  # noqa: UP031
    assert not [text for text in shown if "cret" in text or "pw2" in text]
    for copied in (pickle.loads(pickle.dumps(masked)), copy.copy(masked), copy.deepcopy(masked)):
        assert raw_uri(copied) == SECRET
    assert MaskedURI(masked).raw == SECRET


def test_another_password_is_another_uri() -> None:
    other = MaskedURI(SECRET.replace("pw2", "pw3"))
    assert str(other) == str(MaskedURI(SECRET)), "they look alike"
    assert other != MaskedURI(SECRET)
    assert MaskedURI(SECRET) == SECRET
    assert len({other, MaskedURI(SECRET), SECRET}) == 2


def test_what_celerys_retry_copies_is_a_new_message() -> None:
    first = OutMessage("b", headers={"task": "t", "id": "i"})
    first.mark_resend()
    headers = without_our_headers(first.headers)
    second = OutMessage("b", headers=headers)
    assert second.message_id != first.message_id
    assert RESEND_HEADER not in second.headers


def test_an_id_that_the_application_gives_in_our_header_is_kept() -> None:
    assert OutMessage("b", headers=without_our_headers({ID_HEADER: "mine"})).message_id == "mine"
