"""What may block and is not the lock's: hooks and stamps of a promotion, health checks, and hooks
that nobody waits for. Each kind has a thread of its own, and answers by `tell`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from understudyd.drivers.port import Reign
from understudyd.health.port import Health
from understudyd.sidecar.preparer import follow, prepare
from understudyd.sidecar.settings import Settings
from understudyd.sidecar.stamper import Stamper
from understudyd.sidecar.words import Checked, Prepare, Prepared
from understudyd.sidecar.worker import Worker

__all__ = ["Errands"]


class Errands:
    def __init__(
        self,
        settings: Settings,
        tell: Callable[[Prepared | Checked], None],
        log: logging.Logger,
    ) -> None:
        """``tell`` is called from several threads."""
        self._settings = settings
        self._tell = tell
        self._log = log
        self._stamper = Stamper()
        self._preparing = Worker[Prepared]("understudy-promotion", tell)
        self._checking = Worker[Checked]("understudy-health", tell)
        self._following = Worker[str]("understudy-hooks", self._ended)

    def configure(self, settings: Settings) -> None:
        self._settings = settings

    def prepare(self, order: Prepare) -> None:
        group, node = self._settings.group, self._settings.node
        stamper, warn = self._stamper, self._log.warning
        if not self._preparing.do(lambda: prepare(group, node, order, stamper, warn)):
            veto = "a hook of an earlier promotion has not come back"
            self._tell(Prepared(order.reign.token, veto))

    def check(self, number: int) -> None:
        check, timeout = self._settings.check, self._settings.node.broker.health.timeout
        if not self._checking.do(lambda: Checked(number, check.check(timeout))):
            stuck = Health(False, "an earlier health check has not come back")
            self._tell(Checked(number, stuck))

    def follow(self, hook: str, reign: Reign) -> None:
        group, node = self._settings.group, self._settings.node
        if hook not in group.hooks:
            return
        if not self._following.do(lambda: follow(group, node, hook, reign)):
            self._log.warning(f"the hook {hook} was left out: the one before has not ended")

    @property
    def are_run(self) -> bool:
        """No hook is under way, or about to be."""
        return self._following.wait(0.0)

    def _ended(self, trouble: str) -> None:
        if trouble:
            self._log.warning(trouble)
