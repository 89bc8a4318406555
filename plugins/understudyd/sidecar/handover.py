"""Between two sidecars of one process: taking over from the one before, making way for the next.

Nothing here waits but for the API process to end, which gets a moment, right before the exec.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from understudy.errors import ConfigurationError, UnderstudyError
from understudyd.clock import now
from understudyd.drivers.command import children
from understudyd.drivers.port import Driver, HandsOn
from understudyd.sidecar import successor
from understudyd.sidecar.errands import Errands
from understudyd.sidecar.face import Face
from understudyd.sidecar.legacy import Legacy
from understudyd.sidecar.locker import Locker
from understudyd.sidecar.node import Machine
from understudyd.sidecar.phase import Phase
from understudyd.sidecar.restart import Move, Restart
from understudyd.sidecar.trial import Trial
from understudyd.sidecar.words import Stop
from understudyd.sidecar.worker import Inbox, Worker, are_interruptible
from understudyd.systemd import notify, notify_reloading

__all__ = ["Handover"]

EXPIRY = 300.0  # s: who asked for a restart does not expect it any later
FRESH = 10.0  # s that a trial holds; by then something else may be installed


class Handover:
    def __init__(
        self,
        machine: Machine,
        driver: Driver,
        locker: Locker,
        face: Face,
        errands: Errands,
        inbox: Inbox[Any],
        *,
        try_out: Callable[[], Trial],
        check_reload: Callable[[bytes], object],
        log: logging.Logger,
    ) -> None:
        """``try_out`` and ``check_reload`` may block. The latter raises ConfigurationError where a
        reload would refuse what was in the file at the trial."""
        self.is_to_begin_anew = False  # after the end,
        self.configuration = b""  # with this one
        self._machine = machine
        self._driver = driver
        self._locker = locker
        self._face = face
        self._errands = errands
        self._inbox = inbox
        self._try_out = try_out
        self._check_reload = check_reload
        self._log = log
        self._trying = Worker[Trial]("understudy-trial", inbox.put)
        self._restart = Restart()
        self._expires = math.inf
        self._is_trying = False
        self._tried = -math.inf  # when the last trial came back

    def begin(self, legacy: Legacy | None) -> None:
        """Start the driver, or take over what was left to us. Raises UnderstudyError."""
        if legacy is None or not isinstance(self._driver, HandsOn):
            self._driver.start()
            return
        token = legacy.record.token
        self._driver.adopt(legacy.driver, token)
        self._machine.adopt(legacy, now())
        self._log.info(f"goes on as master, token {token}; the broker, pid {legacy.pid}, ran on")

    def ask(self) -> None:
        """A successor is wanted. What is installed is tried first: `hear` its trial."""
        if self._trying.do(self._try):
            self._is_trying = True
        else:
            self._refuse("an earlier trial of what is installed has not come back")

    def _try(self) -> Trial:
        trial = self._try_out()
        if not trial.trouble:
            try:
                self._check_reload(trial.configuration)
            except ConfigurationError as error:
                return Trial(str(error))
        return trial

    def hear(self, trial: Trial) -> None:
        """The newest trial counts, for a restart that waits too."""
        self._is_trying, self._tried = False, now()
        trouble = trial.trouble
        is_standby = self._machine.phase is Phase.STANDBY
        if not trouble and not is_standby and not isinstance(self._driver, HandsOn):
            trouble = self._cannot_hand_on
        if trouble:
            self._refuse(trouble)
            self._restart.give_up()
            return
        if not self._restart.is_wanted:
            self._expires = now() + EXPIRY
        self._restart.want(trial.took)
        self.configuration = trial.configuration

    def give_up(self) -> None:
        """This sidecar has been told to end, and no other is to follow."""
        self._restart.give_up()
        self.is_to_begin_anew = False

    def turn(self) -> bool:
        """Make way, if it is time: does not return then. True: this sidecar is to end first."""
        if not self._restart.is_wanted or self._machine.is_stopping:
            return False
        if now() >= self._expires:
            self._refuse(f"there was no calm moment for it within {EXPIRY:g} s; ask again")
            self._restart.give_up()
            return False
        machine, timings = self._machine, self._machine.group.timings
        is_whole = self._face.fileno() is not None and machine.tenure.pid is not None
        is_calm = is_whole and self._errands.are_run and not children() and are_interruptible()
        move = self._restart.move(machine.phase, machine.keeper, timings, now(), is_calm=is_calm)
        if move is None or self._is_trying:
            return False
        if now() >= self._tried + FRESH:
            self.ask()
            return False
        if move is Move.REFUSE:
            self._refuse(self._restart.refusal(timings))
        elif move is Move.HAND_ON:
            self._hand_on()
        else:
            self.is_to_begin_anew = True
        self._restart.give_up()
        return self.is_to_begin_anew

    def _hand_on(self) -> None:
        if not isinstance(self._driver, HandsOn):  # it was a standby when it was asked
            self._refuse(self._cannot_hand_on)
            return
        self._face.pause()
        try:
            descriptor = self._locker.hand_on()
            legacy = self._machine.legacy(self._driver.hand_on(), descriptor)
            self._log.info(f"gives way to a new sidecar; the broker, pid {legacy.pid}, runs on")
            notify_reloading()
            successor.replace(legacy, self.configuration, lambda: not self._inbox.holds(Stop))
        except (OSError, UnderstudyError) as error:
            self._refuse(str(error))
        notify("READY=1")
        self._face.go_on()

    @property
    def _cannot_hand_on(self) -> str:
        driver = self._machine.node.broker.driver
        return f"the driver {driver} can't hand its broker on: use switchover"

    def _refuse(self, trouble: str) -> None:
        self._log.error(f"restart refused, everything stays as it is: {trouble}")
