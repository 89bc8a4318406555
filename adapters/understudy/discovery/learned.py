"""An address that somebody announced -> an endpoint. Pure.

Rules
* Announced lists are not trusted: anybody may send a datagram. Of an announced address only scheme,
  host, port and virtual host count. A userinfo and options in it are dropped: they could log us in
  as somebody else, or switch the check of a certificate off.
* Credentials, virtual host and TLS options come from the first configured member, and only when
  the host matches `discovered.allow` or is a configured one, the protocol is the same, and nothing
  would go in the clear that goes by TLS to that member. Any other endpoint gets none of them, and
  no option with a secret's name: a forged list collects no password.
* A host matches as text (a name is never looked up, whoever announces may own it), by ``*.domain``,
  or, written as an IP address, by a network. Loopback names are one host.
* ``discovered.*`` options are added to every learned endpoint, before ``nested.*``.
* Host and port of a configured member mean that member, with all that it says.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Container, Iterable, Mapping
from typing import TypeAlias
from urllib.parse import quote

from understudy.core.endpoint import LOOPBACK_NAMES, Endpoint
from understudy.core.member import MemberReader
from understudy.core.order import place
from understudy.core.redact import Source, is_secret
from understudy.core.uri import FailoverURI
from understudy.discovery.addresses import LONGEST
from understudy.errors import ConfigurationError

__all__ = ["Learner", "is_allowed"]

ADDRESS = re.compile(
    r"""(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://
        ((?P<user>[^/?#\s]*)@)?
        (?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)
        (?P<port>:[0-9]{1,5})?
        (?P<path>/[^?#;,@()\s]*)?
        (?P<query>\?.*)?""",
    re.VERBOSE,
)

PROTOCOLS = {
    **dict.fromkeys(("amqp", "pyamqp", "amqps"), "amqp"),
    **dict.fromkeys(("stomp", "stomp+ssl"), "stomp"),
    **dict.fromkeys(("redis", "rediss"), "redis"),
}
ADAPTERS_OWN = ("tcp", "ssl")  # whatever the adapter speaks
TLS_SCHEMES = frozenset({"amqps", "stomp+ssl", "ssl", "rediss"})
INHERITED = ("cafile", "certfile", "keyfile", "verify")

Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"


class Learner:
    """Makes the endpoints of one URI's announced brokers."""

    def __init__(self, uri: FailoverURI, schemes: Container[str]) -> None:
        """``schemes`` are those that may be learned. Raises ConfigurationError for options under
        ``discovered.`` that no endpoint could take."""
        self._configured = {place(endpoint): endpoint for endpoint in uri.endpoints}
        self._first = uri.endpoints[0] if uri.endpoints else None
        self._hosts = [endpoint.host for endpoint in uri.endpoints]
        self._options = uri.options
        self._schemes = schemes
        self._reader = MemberReader(Source(""), schemes)
        for scheme in ("amqps", "amqp", "stomp+ssl", "stomp"):
            if scheme in schemes:
                self._read(f"{scheme}://host", uri.options.discovered)

    def read(self, address: str) -> tuple[Endpoint, str]:
        """The endpoint, and in words what it does not get; raises ConfigurationError."""
        found = ADDRESS.fullmatch(address) if len(address) <= LONGEST else None
        if found is None or not address.isprintable():
            raise ConfigurationError("that is no address of a broker")
        scheme, host, path = found["scheme"].lower(), found["host"], found["path"] or ""
        if scheme not in self._schemes:
            raise ConfigurationError(f"{scheme}: is no scheme of this list")
        bare = self._read(f"{scheme}://{host}{found['port'] or ''}{path}", {})
        known = self._configured.get(place(bare))
        if known is not None:
            return known, ""
        notes = []
        if found["user"] is not None or found["query"]:
            notes.append("credentials and options in an announced address are dropped")
        distrust, user, first = self._distrust(bare), "", self._first
        if first is not None and distrust:
            notes.append(f"it gets no credentials: {distrust}")
        elif first is not None:
            user = _userinfo(first)
            path = first.path if path in ("", "/") else path
        text = f"{scheme}://{user}{host}{found['port'] or ''}{path}"
        return self._read(text, self._options_for(bare, not distrust)), "; ".join(notes)

    def trusts(self, endpoint: Endpoint) -> bool:
        """Whether it may have the login that the application gave beside the URI."""
        return endpoint in self._configured.values() or not self._distrust(endpoint)

    def _read(self, text: str, options: Mapping[str, str]) -> Endpoint:
        return self._reader.read(text, "an announced broker", options, bare=False)

    def _distrust(self, endpoint: Endpoint) -> str:
        """Why this endpoint gets no secret; empty when it may have them."""
        first = self._first
        if not is_allowed(endpoint.host, self._hosts, self._options.discovered_allow):
            return "its host is no configured one, and not in discovered.allow"
        if first is None:
            return ""
        if not _is_same_protocol(endpoint.scheme, first.scheme):
            return f"it speaks another protocol than {first}"
        if first.scheme in TLS_SCHEMES and endpoint.scheme not in TLS_SCHEMES:
            return f"it has no TLS, and {first} has"
        return ""

    def _options_for(self, endpoint: Endpoint, is_trusted: bool) -> dict[str, str]:
        options = {**self._options.nested}
        if is_trusted and self._first is not None:
            options.update(_tls_options(self._first, endpoint))
        options.update(self._options.discovered)
        return {name: value for name, value in options.items() if is_trusted or not is_secret(name)}


def is_allowed(host: str, configured: Iterable[str], allow: Iterable[str]) -> bool:
    """Whether an announced host may be given credentials: a configured one, or in ``allow``."""
    plain = _plain(host)
    if not plain:
        return False
    if any(plain == _plain(one) for one in configured):
        return True
    return any(_matches(plain, _address(plain), pattern) for pattern in allow)


def _userinfo(endpoint: Endpoint) -> str:
    name, password = endpoint.username, endpoint.password
    if name is None and password is None:
        return ""
    secret = "" if password is None else ":" + quote(password, safe="")
    return f"{quote(name or '', safe='')}{secret}@"


def _tls_options(first: Endpoint, endpoint: Endpoint) -> dict[str, str]:
    if first.scheme not in TLS_SCHEMES:
        return {}
    is_same_host = _plain(endpoint.host) == _plain(first.host)
    said = {name: getattr(first.options, name) for name in INHERITED}
    if is_same_host:  # of another host's certificate it would be the wrong name
        said["server_hostname"] = first.options.server_hostname
    return {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in said.items()
        if value is not None
    }


def _matches(host: str, address: Address | None, pattern: str) -> bool:
    if "/" in pattern:
        return address is not None and address in ipaddress.ip_network(pattern, strict=False)
    if pattern == "*":
        return True
    if pattern.startswith("*."):
        return address is None and host.endswith(pattern[1:].lower())
    return host == _plain(pattern)


def _address(host: str) -> Address | None:
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _plain(host: str) -> str:
    """One spelling for each host."""
    host = host.strip("[]").lower().rstrip(".")
    if host in LOOPBACK_NAMES:
        return "localhost"
    address = _address(host)
    return host if address is None else str(address)


def _is_same_protocol(one: str, other: str) -> bool:
    if one in ADAPTERS_OWN or other in ADAPTERS_OWN:
        return {one, other} <= {*ADAPTERS_OWN, *PROTOCOLS}
    return PROTOCOLS.get(one, one) == PROTOCOLS.get(other, other)
