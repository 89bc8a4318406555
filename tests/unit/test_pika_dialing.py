"""The parameters of an endpoint, without a network."""

from __future__ import annotations

from typing import Any

import pika
import pytest

from understudy.pika import dialing
from understudy.pika.dialing import PikaDialer, read_parameters


def test_a_changed_secret_changes_nothing_of_the_applications(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """update_secret() is for our later logins; the parameters given stay what they were."""
    used: list[Any] = []

    def connect(parameters: Any, deadline: object) -> None:
        used.append(parameters.credentials.password)
        raise OSError("nobody is there")

    monkeypatch.setattr(dialing, "_connect", connect)
    given = pika.ConnectionParameters("a", credentials=pika.PlainCredentials("app", "old"))
    uri, known = read_parameters(given, None)
    dialer = PikaDialer(uri, known)
    dialer.secrets["app"] = "new"
    with pytest.raises(OSError, match="nobody"):
        dialer.dial(uri.endpoints[0], 1.0)
    assert used == ["new"]
    assert given.credentials.password == "old"
