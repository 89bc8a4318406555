"""Options that a host has no use for are said once, when they were set."""

from __future__ import annotations

import pytest

from understudy.core.uri import parse
from understudy.failover.without_effect import warn_without_effect

WHY = {"blockedTimeout": "nothing blocks here"}


def test_an_option_that_was_set_is_said(caplog: pytest.LogCaptureFixture) -> None:
    warn_without_effect(parse("failover:(amqp://h)?blockedTimeout=5"), WHY, "abacus")
    assert caplog.messages == [
        "option blockedTimeout has no effect with abacus: nothing blocks here"
    ]


def test_one_that_was_not_set_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    warn_without_effect(parse("failover:(amqp://h)?timeout=5"), WHY, "abacus")
    assert not caplog.messages
