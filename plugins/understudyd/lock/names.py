"""Where a name leads, also while no name server answers.

Rules
* A name is looked up for each connection, on a thread of its own: a look-up has no time-out but
  the resolver's, which is ten seconds and more. One at a time.
* Where it fails, or takes longer than it may, what was found last is used. What comes late is for
  the next connection.
"""

from __future__ import annotations

import contextlib
import socket
import threading

__all__ = ["Names"]


class Names:
    def __init__(self, first: float, again: float) -> None:
        """Seconds that a look-up may take: of a name that is not known, and of one that is."""
        self._first = first
        self._again = again
        self._known: dict[str, tuple[str, ...]] = {}
        self._lookup: _Lookup | None = None

    def addresses(self, name: str) -> tuple[str, ...]:
        """IP addresses in the order to try them. Raises OSError."""
        if _is_address(name):
            return (name,)
        lookup = self._lookup
        if lookup is None or lookup.name != name or lookup.is_over:
            lookup = self._lookup = _Lookup(name, self._known)
        known = self._known.get(name)
        lookup.wait(self._first if known is None else self._again)
        found = self._known.get(name)
        if found is None:
            raise lookup.error or TimeoutError(f"no name server has answered for {name}")
        return found


class _Lookup:
    """One, under way."""

    def __init__(self, name: str, known: dict[str, tuple[str, ...]]) -> None:
        self.name = name
        self.error: OSError | None = None
        self._known = known
        self._over = threading.Event()
        threading.Thread(target=self._run, name="understudy-name", daemon=True).start()

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    def wait(self, longest: float) -> None:
        self._over.wait(longest)

    def _run(self) -> None:
        try:
            found = socket.getaddrinfo(self.name, None, type=socket.SOCK_STREAM)
            self._known[self.name] = tuple(dict.fromkeys(str(one[4][0]) for one in found))
        except OSError as error:
            self.error = error
        except UnicodeError as error:  # a label of more than 63 signs
            self.error = OSError(f"{self.name!r} is no name of a host: {error}")
        finally:
            self._over.set()


def _is_address(name: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, name)
            return True
    return False
