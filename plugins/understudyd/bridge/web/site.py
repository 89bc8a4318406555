"""What the API of bridges knows: what their process last wrote, and when it last was alive."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from understudyd.api.metrics import Sample
from understudyd.api.page import Sheet
from understudyd.api.routes import Asked, Command, Reply
from understudyd.bridge.web.routes import View, route
from understudyd.clock import now
from understudyd.config.model import Api

__all__ = ["BridgeSite"]


class BridgeSite:
    owner = "bridge process"

    def __init__(self, page: Sheet) -> None:
        self._page = page
        self._told: dict[str, Any] | None = None

    def sign(self) -> None:
        self._page.sign()

    def answer(
        self, asked: Asked, api: Api, is_owner_alive: bool, own: Sequence[Sample]
    ) -> Reply | Command:
        if data := self._page.read():
            self._told = json.loads(data)
        silent = max(0.0, now() - self._page.pulse().beat)
        return route(asked, View(self._told, silent, is_owner_alive, tuple(own)), api)
