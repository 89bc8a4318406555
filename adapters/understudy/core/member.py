"""One member of a list: text -> `Endpoint`.

Rules:
* Own splitting, because libraries differ in what they make of odd input: at most one raw ``@``, and
  only before the host; no raw ``;`` (kombu splits there), ``#``, comma or blank. What is refused
  can be written percent-encoded.
* Query options of ours (`MEMBER_OPTIONS`) are taken out of the URI; what is left belongs to the
  host library, which gets it as written. An option of the whole list found on a member is a mistake
  in the parentheses and is refused for the schemes we know.
* ``nested`` options are added where the member does not say them itself. TLS options among them
  skip members without TLS.
* `CORE_SCHEMES` need no host (``amqp://`` is localhost); all other schemes are the adapter's.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass, fields
from urllib.parse import quote, unquote, unquote_plus

from understudy.core.endpoint import Endpoint, EndpointOptions
from understudy.core.option_reader import PREFIX, nearest, read_value
from understudy.core.options import OPTIONS, Option, shown_value
from understudy.core.redact import MASK, NAMED_USERS, Source, is_secret
from understudy.errors import ConfigurationError

__all__ = ["CORE_SCHEMES", "MEMBER_OPTIONS", "MemberReader", "member_text"]

CORE_SCHEMES = frozenset({"amqp", "amqps", "pyamqp", "stomp", "stomp+ssl", "tcp", "ssl"})
PLAIN_SCHEMES = frozenset({"amqp", "pyamqp", "stomp", "tcp"})
#: What else is written for TLS; the nearest scheme would be without.
SECURE = {
    **dict.fromkeys(("stomps", "stomp+tls"), "stomp+ssl"),
    **dict.fromkeys(("amqp+ssl", "amqp+tls"), "amqps"),
    "tls": "ssl",
}
MEMBER_OPTIONS = tuple(field.name for field in fields(EndpointOptions))
TLS_OPTIONS = frozenset(MEMBER_OPTIONS) - {"heartbeat"}
LIST_OPTIONS = frozenset(OPTIONS) - {"heartbeat"}

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
HOST = re.compile(r"[\w.~%-]*")
IPV6 = re.compile(r"\[([0-9A-Fa-f:.]+)(?:%25[\w.~-]+)?\]")
VERIFY = Option("verify", "verify", "flag", None, "check the broker's certificate")

Pairs = tuple[tuple[str, str], ...]  # as written


@dataclass(frozen=True)
class Parts:
    scheme: str
    userinfo: str | None
    host: str
    port: str
    path: str
    pairs: Pairs

    def text(self, pairs: Iterable[tuple[str, str]], *, redacted: bool = False) -> str:
        """The member as written, with these query pairs."""
        user = self.userinfo
        if redacted and user is not None:
            name, colon, _ = user.partition(":")
            lone = user if self.scheme in NAMED_USERS else MASK
            user = f"{name}:{MASK}" if colon else lone
        authority = ("" if user is None else f"{user}@") + self.host + self.port
        query = "&".join(
            f"{name}={MASK}"
            if redacted and value and _hides(name, value)
            else f"{name}={value}"
            if value
            else name
            for name, value in pairs
        )
        return f"{self.scheme}://{authority}{self.path}" + (f"?{query}" if query else "")


def _hides(name: str, value: str) -> bool:
    return is_secret(unquote_plus(name)) or "@" in unquote(unquote(value))


def member_text(endpoint: Endpoint, *, redacted: bool) -> str:
    """An endpoint as a member of a list: its URI and the options that are ours."""
    text = endpoint.redacted if redacted else endpoint.uri
    said = []
    for name in MEMBER_OPTIONS:
        value = getattr(endpoint.options, name)
        if value is not None:
            plain = str(value).lower() if isinstance(value, bool) else str(value)
            said.append(f"{name}={quote(plain, safe='/:')}")
    return text + ("&" if "?" in text else "?") * bool(said) + "&".join(said)


@dataclass(frozen=True)
class MemberReader:
    """Reads the members of one list; errors name the list and the member."""

    source: Source
    schemes: Container[str] = CORE_SCHEMES
    library_options: Collection[str] | None = None  # the host library's own; None = not judged

    def read(self, text: str, label: str, nested: Mapping[str, str], *, bare: bool) -> Endpoint:
        """``bare``: the last member of a list without parentheses."""
        parts = self._split(text, label)
        pairs, added = list(parts.pairs), []
        names = {unquote_plus(name) for name, _ in pairs}
        for name, value in pairs:
            self._check_name(unquote_plus(name), value, parts.scheme, label, bare)
        for name, value in nested.items():
            if name in names or (name in TLS_OPTIONS and parts.scheme in PLAIN_SCHEMES):
                continue
            self._check_name(name, value, parts.scheme, f"nested.{name} of {label}", bare)
            added.append((quote(name, safe=""), quote(value, safe="/:")))
        ours: dict[str, str] = {}
        others: list[tuple[str, str]] = []
        for raw, value in [*pairs, *added]:
            name = unquote_plus(raw)
            if name not in MEMBER_OPTIONS:
                others.append((raw, value))
            elif ours.setdefault(name, unquote_plus(value)) != unquote_plus(value):
                raise self._error(f"{label} has option {name} twice with different values")
        return self._endpoint(parts, others, self._options(ours, parts.scheme, label), label)

    def _error(self, message: str) -> ConfigurationError:
        return self.source.error(message)

    def _endpoint(
        self,
        parts: Parts,
        others: list[tuple[str, str]],
        options: EndpointOptions,
        label: str,
    ) -> Endpoint:
        try:
            host = unquote(parts.host.strip("[]"), errors="strict")
            user, _, password = (
                unquote(part, errors="strict") for part in (parts.userinfo or "").partition(":")
            )
        except UnicodeDecodeError:
            message = f"{label} holds percent-encoded bytes that are not UTF-8"
            raise self._error(message) from None
        if not host and parts.scheme in CORE_SCHEMES:
            host = "localhost"
        return Endpoint(
            uri=parts.text(others),
            redacted=parts.text(others, redacted=True),
            scheme=parts.scheme,
            host=host,
            port=int(parts.port[1:]) if parts.port[1:] else None,
            username=user or None,
            password=password or None,
            path=parts.path,
            query={unquote_plus(name): unquote_plus(value) for name, value in others},
            options=options,
        )

    def _split(self, text: str, label: str) -> Parts:
        scheme, slashes, rest = text.partition("://")
        if not slashes or not SCHEME.fullmatch(scheme):
            # without "://" itself: who masks this text again would take it for an address
            word, double, _ = text.partition("//")
            fits = double and word in self.schemes
            raise self._error(
                f"{label} is no address: it must begin with a scheme, a colon and two slashes "
                "(a comma in a password is written %2C)"
                f"{f'; did you forget the colon after {word}?' if fits else ''}"
            )
        scheme = self._scheme(scheme, label)
        for character, encoded in ((" ", "%20"), ("#", "%23"), (",", "%2C")):
            if character in rest:
                raise self._error(f'{label} holds a raw "{character}"; write {encoded}')
        if any(map(str.isspace, rest)):
            raise self._error(f"{label} holds a raw blank; write it percent-encoded")
        authority = re.split(r"[/?]", rest, maxsplit=1)[0]
        if rest.count("@") > ("@" in authority):
            raise self._error(
                f"{label} holds a raw at sign beside the one before the host; write %40 "
                "(and %2F for a slash, %3F for a question mark in a password)"
            )
        path, _, query = rest[len(authority) :].partition("?")
        user, at, place = authority.rpartition("@")
        host, port = self._place(place, scheme, label)
        pairs = [pair.partition("=")[::2] for pair in query.split("&") if pair]
        return Parts(scheme, user if at else None, host, port, path, tuple(pairs))

    def _scheme(self, scheme: str, label: str) -> str:
        for known in (scheme, scheme.lower()):
            if known in self.schemes:
                return known
        if scheme.partition("+")[0] in self.schemes and scheme not in CORE_SCHEMES:
            return scheme  # kombu: sqlalchemy+postgresql://
        listed = sorted(self.schemes) if isinstance(self.schemes, Collection) else []
        shown = self.source.quote(scheme)
        hint = nearest(SECURE.get(scheme.lower(), shown), listed)
        if scheme.lower() in ("file", "http", "https", "multicast"):
            hint = f"; did you mean discovery:({scheme}:…)?"
        valid = f" (valid: {', '.join(listed)})" if listed else ""
        raise self._error(f'{label} has the unknown scheme "{shown}"{hint}{valid}')

    def _place(self, place: str, scheme: str, label: str) -> tuple[str, str]:
        """Host (with its brackets) and port (with its colon), as written."""
        if place.startswith("["):
            host, bracket, port = place.partition("]")
            host += bracket
            if not _is_ipv6(host) or (port and not port.startswith(":")):
                raise self._error(f"{label} has no valid IPv6 address between brackets")
        else:
            host, colon, number = place.partition(":")
            port = colon + number
            if ":" in number:
                raise self._error(f"{label}: an IPv6 address is written in brackets, [::1]:5672")
            if scheme in CORE_SCHEMES and not HOST.fullmatch(host):
                raise self._error(f"{label} has no valid host name")
        if port == ":" and scheme not in CORE_SCHEMES:
            return place, ""  # azurestoragequeues://key@https://account...
        digits = port[1:]
        if port and not (re.fullmatch(r"[0-9]{1,5}", digits) and 0 < int(digits) < 65536):
            cut = "" if digits.isdigit() else " (a comma in a password is written %2C)"
            raise self._error(f"{label} has a port that is no number from 1 to 65535{cut}")
        return host, port

    def _check_name(self, name: str, value: str, scheme: str, label: str, bare: bool) -> None:
        """Refuses what is certainly a mistake."""
        if name in MEMBER_OPTIONS:
            return
        ours = name in LIST_OPTIONS or name.startswith((PREFIX, "nested.", "discovered."))
        if ours and (bare or scheme in CORE_SCHEMES):
            shown = self.source.quote(name)
            if label.startswith("nested."):
                advice = "write it without nested."
            elif bare:
                advice = f"add parentheses: failover:(…)?{shown}=…"
            else:
                advice = f"move it behind the last closing parenthesis: (…)?{shown}=…"
            raise self._error(
                f"option {shown} is one of the whole list but stands on {label}; {advice}"
            )
        plain = {known.replace("_", ""): known for known in MEMBER_OPTIONS}
        close = plain.get(re.sub(r"[_-]", "", name).lower())
        if close and scheme in CORE_SCHEMES:
            raise self._error(
                f"{label} has the unknown option {self.source.quote(name)}; did you mean {close}?"
            )
        if self.library_options is not None and name not in self.library_options:
            valid = [*MEMBER_OPTIONS, *sorted(self.library_options)]
            shown = self.source.quote(name)
            raise self._error(
                f"{label} has the unknown option {shown} with value {shown_value(name, value)}"
                f"{nearest(name, valid)} (valid: {', '.join(valid)})"
            )

    def _options(self, said: Mapping[str, str], scheme: str, label: str) -> EndpointOptions:
        values: dict[str, object] = {}
        for name, text in said.items():
            if name in TLS_OPTIONS and scheme in PLAIN_SCHEMES:
                raise self._error(
                    f"option {name} of {label} is about TLS, which {scheme}: does not use; "
                    "write amqps:, stomp+ssl: or ssl:"
                )
            problem, value = _member_value(name, text)
            if problem:
                shown = shown_value(name, text)
                raise self._error(f"option {name} of {label} must be {problem}; {shown} is not")
            values[name] = value
        if "keyfile" in values and "certfile" not in values:
            raise self._error(f"option keyfile of {label} needs certfile beside it")
        return EndpointOptions(**values)  # type: ignore[arg-type]


def _is_ipv6(host: str) -> bool:
    found = IPV6.fullmatch(host)
    try:
        return found is not None and ipaddress.IPv6Address(found[1]).version == 6
    except ValueError:
        return False


def _member_value(name: str, text: str) -> tuple[str, object]:
    """What would be valid (empty when the text is) and the converted value."""
    if name in ("heartbeat", "verify"):
        option = OPTIONS["heartbeat"] if name == "heartbeat" else VERIFY
        value = read_value(option, text)
        if isinstance(value, bool) or (isinstance(value, int) and 0 <= value <= option.high):
            return "", value
        return option.valid, None
    return ("" if text and text.isprintable() else "printable text that is not empty"), text
