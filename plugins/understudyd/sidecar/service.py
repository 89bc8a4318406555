"""The running command `understudy sidecar`: puts its parts together, and behaves as a service.

Exit codes: 0 after SIGTERM or SIGINT, when the lock was handed over; 1 for what should not happen;
2 for a configuration that can't be run, or a group that this node does not fit into; 3 when a
broker could not be killed. SIGHUP reads the configuration again. SIGUSR2 gives the process to the
sidecar that is installed by now, while the broker runs on.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from understudy.core.redact import redact
from understudy.errors import ConfigurationError
from understudyd.board.open import open_board
from understudyd.board.port import Board
from understudyd.config import about
from understudyd.drivers import command
from understudyd.drivers.open import open_driver
from understudyd.drivers.port import Driver
from understudyd.guard.words import Lock
from understudyd.lock.open import open_backend
from understudyd.lock.port import Inheritable, LockBackend
from understudyd.logs import log_to_stderr
from understudyd.sidecar import successor, trial
from understudyd.sidecar.control import ApiIsUp, Control, Reload, Replace, Word, new_instance
from understudyd.sidecar.face import Face
from understudyd.sidecar.init import become_init
from understudyd.sidecar.legacy import Legacy
from understudyd.sidecar.settings import Settings, read
from understudyd.sidecar.words import Stop
from understudyd.sidecar.worker import Inbox
from understudyd.systemd import notify

__all__ = ["run"]


def run(file: Path, address: str) -> int:
    """The exit code. Raises ConfigurationError before anything was started."""
    if os.getpid() == 1:
        become_init()
    tried, legacy, missed = successor.configuration(), successor.inherited(), successor.noted()
    if trial.is_asked():
        trial.answer(lambda: _open(read(file, address, tried), "trial", lambda: ()))
        return 0
    settings = read(file, address, tried, is_tried=tried is not None)
    log = log_to_stderr("understudy.sidecar", f"{settings.group.name}/{settings.node.name} ")
    threading.excepthook = lambda failed: _end(log, failed)
    inbox: Inbox[Word] = Inbox()
    face = Face(settings, log, lambda: inbox.put(ApiIsUp()))
    try:
        control = _build(settings, file, inbox, face, log, legacy)
        try:
            _listen_to_signals(inbox, missed)
            if legacy is None:
                face.start()
            else:  # to renew the lease goes first
                face.go_on()
            log.info(f"started: lock {settings.group.lock}, API {settings.node.listen}")
            notify("READY=1")
            if tried is not None:  # the file may be another by now
                inbox.put(Reload())
            quit = control.run()
        finally:
            notify("STOPPING=1")
            control.close()
    finally:
        face.close()
    if quit.reason:
        log.error(quit.reason)
    if quit.code == 0 and control.next_configuration is not None:
        log.info("begins anew")
        successor.replace(None, control.next_configuration, lambda: not inbox.holds(Stop))
    log.info(f"ended with exit code {quit.code}")
    return quit.code


def _build(
    settings: Settings,
    file: Path,
    inbox: Inbox[Word],
    face: Face,
    log: logging.Logger,
    legacy: Legacy | None,
) -> Control:
    group, node = settings.group, settings.node
    if legacy is not None and not legacy.is_of(group, node):
        raise ConfigurationError(f"{settings.estate.path}: was changed while the sidecar restarted")
    address = f"{group.name}/{node.name}"
    instance = legacy.record.instance if legacy else new_instance()
    backend, board, driver = _open(settings, instance, lambda: {*face.pids, *command.children()})
    if legacy is not None and legacy.descriptor is not None:
        assert isinstance(backend, Inheritable)
        backend.adopt(legacy.descriptor)
    return Control(
        settings,
        inbox=inbox,
        instance=instance,
        backend=backend,
        driver=driver,
        board=board,
        face=face,
        reread=lambda content: read(file, address, content),
        try_out=lambda: trial.try_out(file),
        log=log,
        chance=random.Random(),
        legacy=legacy,
    )


def _open(
    settings: Settings, instance: str, owned: Callable[[], Iterable[int]]
) -> tuple[LockBackend, Board, Driver]:
    """Nothing is connected or started yet. Raises ConfigurationError."""
    group = settings.group
    uri, attempt = group.lock.reveal(), group.timings.attempt
    with about(settings.estate, f"groups.{group.name}.lock"):
        backend = open_backend(uri, group.name, attempt)
        board = open_board(uri, group.name, attempt)
    with about(settings.estate, f"{settings.key}.broker"):
        lock = Lock(uri, group.name, instance, attempt)
        driver = open_driver(settings.node.broker, lock, timings=group.timings, owned=owned)
    return backend, board, driver


def _end(log: logging.Logger, failed: threading.ExceptHookArgs) -> NoReturn:
    """Without one of its threads a sidecar would wait for ever; the guards see to its broker."""
    name = failed.thread.name if failed.thread else "a thread"
    where = "".join(traceback.format_tb(failed.exc_traceback)).rstrip()
    text = redact(f"{failed.exc_type.__name__}: {failed.exc_value}")
    log.critical(f"{name} has failed, so this sidecar ends: {text}\n{where}")
    os._exit(1)


def _listen_to_signals(inbox: Inbox[Word], missed: Sequence[int]) -> None:
    """``missed``: came before, and count as if they came now."""

    def on(number: int, word: Callable[[], Stop | Reload | Replace]) -> None:
        def handler(_: int, __: FrameType | None) -> None:
            inbox.put(word())

        signal.signal(number, handler)

    on(signal.SIGTERM, Stop)
    on(signal.SIGINT, Stop)
    on(signal.SIGHUP, Reload)
    on(signal.SIGUSR2, Replace)
    for number in missed:
        signal.raise_signal(number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, successor.SIGNALS)
