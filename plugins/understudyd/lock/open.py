"""From a lock's URI to its backend.

Third parties add schemes by an entry point of the group `understudy.locks`: its name is the scheme,
its object is called as ``backend(uri, group, attempt)`` and must raise ConfigurationError for what
it can't be.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

from understudy.core.redact import redact
from understudy.errors import ConfigurationError
from understudyd.lock.file import FileBackend
from understudyd.lock.memory import MemoryBackend, Store
from understudyd.lock.port import LockBackend

__all__ = ["check_kind", "file_path", "open_backend"]

GROUP = "understudy.locks"
TO_COME = ("redis+quorum", "postgresql", "mysql", "sqlite", "zookeeper")

_stores: dict[str, Store] = {}  # of memory: locks; one process's contenders share them


def open_backend(uri: str, group: str, attempt: float) -> LockBackend:
    """The backend of this URI; nothing is connected yet.

    ``attempt``: seconds that one attempt to reach it may take. Raises ConfigurationError for a
    scheme that is not known, and for what the backend itself refuses.
    """
    return _maker(uri, group)(uri, group, attempt)


def check_kind(uri: str, group: str) -> None:
    """Raises ConfigurationError for a URI of no kind of lock that is known here."""
    _maker(uri, group)


def _maker(uri: str, group: str) -> Callable[[str, str, float], LockBackend]:
    scheme, colon, _ = uri.partition(":")
    if not colon or not scheme.translate({ord(sign): "" for sign in "+-."}).isalnum():
        raise ConfigurationError(
            f'the lock "{redact(uri)}" has no scheme; write e.g. file:/mnt/shared/{group}.lock'
        )
    return _BUILT_IN.get(scheme) or _others(scheme)


def _others(scheme: str) -> Callable[[str, str, float], LockBackend]:
    # imported here, as each guard opens a backend too, and these cost it 3 MB
    from difflib import get_close_matches
    from importlib.metadata import entry_points

    for point in entry_points(group=GROUP, name=scheme):
        make: Callable[[str, str, float], LockBackend] = point.load()
        return make
    if scheme in TO_COME:
        raise ConfigurationError(f"{scheme}: locks are not built yet; use file: or redis:")
    offered = [built_in for built_in in _BUILT_IN if built_in != "memory"]  # which is for tests
    valid = [*offered, *sorted({point.name for point in entry_points(group=GROUP)})]
    close = get_close_matches(scheme, valid, 1)
    hint = f'; did you mean "{close[0]}:"?' if close else ""
    raise ConfigurationError(
        f'no lock has the scheme "{scheme}:" (valid: {", ".join(valid)}){hint}'
    )


def file_path(uri: str) -> str:
    """The path in a URI ``file:/path``, ``file:///path`` or ``file://localhost/path``.

    Raises ConfigurationError.
    """
    path = uri.partition(":")[2]
    if path.startswith("//"):  # file:///path, as other tools write it
        host, slash, rest = path[2:].partition("/")
        if host not in ("", "localhost"):
            raise ConfigurationError(f"{uri}: a lock file has no host; write file:/{rest}")
        path = slash + rest
    if not path.startswith("/"):
        raise ConfigurationError(f"{uri}: the path of a lock file must begin with /")
    return unquote(path)


def _file(uri: str, group: str, attempt: float) -> LockBackend:
    return FileBackend(file_path(uri))


def _memory(uri: str, group: str, attempt: float) -> LockBackend:
    name = uri.partition(":")[2] or group
    return MemoryBackend(_stores.setdefault(name, Store()))


def _redis(uri: str, group: str, attempt: float) -> LockBackend:
    try:
        from understudyd.lock.redis import RedisBackend
    except ModuleNotFoundError as exc:
        raise ConfigurationError(
            f"{exc.name} is not installed, which a {uri.partition(':')[0]}: lock needs: "
            'pip install "understudy[redis]"'
        ) from None
    return RedisBackend(uri, group, attempt)


def _sentinel(uri: str, group: str, attempt: float) -> LockBackend:
    _redis("redis://", group, attempt).close()  # tells what to install
    from understudyd.lock.sentinel import SentinelBackend

    return SentinelBackend(uri, group, attempt)


_BUILT_IN: dict[str, Callable[[str, str, float], LockBackend]] = {
    "file": _file,
    "redis": _redis,
    "rediss": _redis,
    "unix": _redis,
    "redis+sentinel": _sentinel,
    "rediss+sentinel": _sentinel,
    "memory": _memory,
}
