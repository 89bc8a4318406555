"""Whose API it is: what a sidecar's answers, from its page; and processes that are watched."""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from typing import Protocol

from understudyd.api.metrics import Sample
from understudyd.api.page import Page
from understudyd.api.routes import Asked, Command, Reply, View, route
from understudyd.clock import now
from understudyd.config.model import Api

__all__ = ["Process", "SidecarSite", "Site"]


class Site(Protocol):
    """What an API process asks. It is asked one thing at a time, and must not wait."""

    owner: str
    """``sidecar`` or ``bridge``: who is told of as dead or busy."""

    def sign(self) -> None:
        """The API lives; told every second."""

    def answer(
        self, asked: Asked, api: Api, is_owner_alive: bool, own: Sequence[Sample]
    ) -> Reply | Command:
        """An answer, or what the owner is to decide; ``own`` are samples of the API itself."""


class SidecarSite:
    owner = "sidecar"

    def __init__(self, page: Page) -> None:
        self._page = page
        self._broker = Process(None)

    def sign(self) -> None:
        self._page.sign()

    def answer(
        self, asked: Asked, api: Api, is_owner_alive: bool, own: Sequence[Sample]
    ) -> Reply | Command:
        snapshot = self._page.snapshot()
        self._broker.watch(snapshot.status.broker.pid if snapshot else None)
        view = View(
            now=now(),
            pulse=self._page.pulse(),
            snapshot=snapshot,
            is_control_alive=is_owner_alive,
            is_broker_alive=self._broker.is_alive,
            own=tuple(own),
        )
        return route(asked, view, api)


class Process:
    """Whether a process lives, by the kernel's word."""

    def __init__(self, pid: int | None) -> None:
        self.descriptor: int | None = None
        self._pid: int | None = None
        self._is_gone = False
        self.watch(pid)

    def watch(self, pid: int | None) -> None:
        """This one from now on; None: there is none, which counts as living."""
        if pid == self._pid:
            return
        if self.descriptor is not None:
            os.close(self.descriptor)
        self._pid, self.descriptor, self._is_gone = pid, None, False
        if pid is not None:
            try:
                self.descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                self._is_gone = True

    @property
    def is_alive(self) -> bool:
        if self.descriptor is None:
            return not self._is_gone
        poll = select.poll()  # select() knows no descriptor above 1023
        poll.register(self.descriptor, select.POLLIN)
        return not poll.poll(0)
