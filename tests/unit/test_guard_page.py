"""The deadline page, and when the watcher loses patience."""

from __future__ import annotations

import math
import os

from understudyd.guard.page import SIGNING, Page, Pulse
from understudyd.guard.suspicion import Suspicion
from understudyd.guard.words import NEVER, Armed, Idle, Killing, Lease, Stuck


def test_a_page_begins_empty_and_is_the_same_for_all() -> None:
    page = Page.create()
    assert page.read() == Lease(0, NEVER)
    other = Page(os.dup(page.descriptor))
    page.extend(12.5, 3)
    assert other.read() == Lease(3, 12.5)
    page.clear()
    assert other.read().token == 0
    page.close()
    other.close()


def test_a_deadline_only_ever_rises_within_a_reign() -> None:
    page = Page.create()
    page.extend(12.5, 3)
    page.extend(12.0, 3)
    page.extend(99.0, 2)
    assert page.read() == Lease(3, 12.5)
    page.extend(5.0, 4)
    assert page.read() == Lease(4, 5.0)
    page.close()


def test_a_sign_of_life_is_another_each_time_and_touches_nothing_else() -> None:
    page = Page.create()
    page.extend(12.5, 3)
    signs = {(page.sign_of("guard"), page.sign_of("watcher"))}
    pulse = Pulse(Page(os.dup(page.descriptor)), "guard")
    for moment in (100.0, 100.0 + SIGNING / 2, 100.0 + SIGNING):
        pulse.sign(moment)
        signs.add((page.sign_of("guard"), page.sign_of("watcher")))
    successor = Pulse(page, "guard")
    successor.sign(0.0)
    signs.add((page.sign_of("guard"), page.sign_of("watcher")))
    assert len(signs) == 4
    assert {other for _, other in signs} == {bytes(8)}
    assert page.read() == Lease(3, 12.5)
    page.close()


def test_a_page_that_is_attached_goes_on_where_it_was() -> None:
    page = Page.create()
    page.extend(1.0, 3)
    other = Page(os.dup(page.descriptor))
    other.extend(2.0, 3)
    assert page.read() == Lease(3, 2.0)
    page.close()
    other.close()


LEASE = Lease(7, 100.0)


def test_a_guard_with_nothing_in_custody_is_never_doubted() -> None:
    it = Suspicion(kill=0.5, slack=0.05)
    assert it.due(LEASE) == math.inf
    it.control_lost(1.0)
    assert it.due(LEASE) == math.inf
    it.heard(Armed(7, has_lock=False), 2.0)
    it.heard(Idle(), 3.0)
    assert it.due(LEASE) == math.inf


def test_it_has_to_begin_at_the_deadline_or_when_control_is_lost() -> None:
    it = Suspicion(kill=0.5, slack=0.05)
    it.heard(Armed(7, has_lock=False), 2.0)
    assert it.due(LEASE) == 100.05
    assert it.due(Lease(7, 200.0)) == 200.05
    assert it.due(Lease(8, 200.0)) < 0
    it.control_lost(3.0)
    assert it.due(LEASE) == 3.05


def test_it_gets_the_time_that_killing_takes() -> None:
    it = Suspicion(kill=0.5, slack=0.05)
    it.heard(Armed(7, has_lock=False), 2.0)
    it.heard(Killing(), 10.0)
    it.heard(Killing(), 10.4)
    assert it.due(LEASE) == 10.55
    it.heard(Stuck(), 10.5)
    assert it.due(LEASE) == math.inf
    it.heard(Armed(8, has_lock=False), 11.0)
    assert it.due(Lease(8, 100.0)) == 100.05
