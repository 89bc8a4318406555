"""Start a broker: fork, prepare, exec."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
from collections.abc import Sequence
from typing import TypeAlias

from understudy.errors import ConfigurationError
from understudyd.guard.cgroup import Group
from understudyd.guard.system import OOM_SCORE, die_with_parent
from understudyd.guard.words import Launch

__all__ = ["NOT_STARTED", "Ids", "become", "identity", "look_up", "start"]

NOT_STARTED = 127  # exit status, as a shell has it
Ids: TypeAlias = tuple[int, int, tuple[int, ...]]
"""Of a user, of its group, and of all its groups."""

_known: dict[str, Ids] = {}


def identity(user: str) -> Ids:
    """As it was when it was looked up last: to ask a directory service that a partition has cut
    off would take longer than a lease. Raises ConfigurationError."""
    return _known.get(user) or look_up(user)


def look_up(user: str) -> Ids:
    """May block. Raises ConfigurationError."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise ConfigurationError(f"this machine has no user {user!r}") from None
    ids = entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(user, entry.pw_gid))
    _known[user] = ids
    return ids


def become(ids: Ids | None, oom_score: int) -> None:
    """In a new process of one that is hardened: give that back, and be this user. Raises OSError.

    A change of user would undo `die_with_parent`, which has to come after it.
    """
    with contextlib.suppress(OSError), open(OOM_SCORE, "w", encoding="ascii") as file:
        file.write(str(oom_score))
    if ids is not None:
        user, main_group, groups = ids
        os.setgroups(groups)
        os.setgid(main_group)
        os.setuid(user)


def start(
    launch: Launch, descriptors: Sequence[int], group: Group | None, oom_score: int
) -> tuple[int, int]:
    """In a session of its own, with these descriptors besides stdout and stderr.

    Returns its pid, and a pipe that tells why it could not be started, when it ends with
    `NOT_STARTED`. Raises OSError.
    """
    told, tell = os.pipe()
    guard = os.getpid()
    try:
        pid = os.fork()
    except OSError:
        os.close(told)
        os.close(tell)
        raise
    if pid == 0:
        try:
            _become(launch, descriptors, group, oom_score, guard)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.write(tell, f"{error}"[:512].encode())
        finally:
            os._exit(NOT_STARTED)
    os.close(tell)
    return pid, told


def _become(
    launch: Launch, descriptors: Sequence[int], group: Group | None, oom_score: int, guard: int
) -> None:
    os.setsid()
    if group is not None:
        with contextlib.suppress(OSError):
            group.enter()
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    become(launch.ids, oom_score)
    os.umask(launch.umask)
    os.chdir(launch.cwd)
    die_with_parent()  # after the change of user, which would undo it
    if os.getppid() != guard:
        return
    try:
        os.execvpe(launch.argv[0], launch.argv, dict(launch.env))
    except OSError as error:  # it names the last folder of PATH
        raise OSError(error.errno, error.strerror, launch.argv[0]) from None
