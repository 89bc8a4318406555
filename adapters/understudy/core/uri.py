"""Failover URIs: text -> `FailoverURI`, and back.

Forms (spaces and line ends around members and options are trimmed)::

    failover:(u1,u2)?o    failover://(u1,u2)?o    failover:u1,u2    failover://u1,u2    u1
    static:(u1,u2)?o      masterslave:(master,slave)?o
    discovery:(agent)?o   fanout:(static:(u1,u2))?minAckCount=2

Rules:
* Any string either parses or gives `ConfigurationError`, in linear time; no error shows a userinfo.
* Commas split at depth 0 of the parentheses only. One trailing comma is dropped, an empty member is
  an error, and so is an empty list that nothing (agent, updateURIsURL) could fill.
* Without parentheses a query belongs to the last member, as in ActiveMQ; if it holds an option of
  the list, that is an error and not a surprise.
* Composites nest and are flattened in order. An inner one may carry ``nested.*`` options, for its
  own members and before those of the outer one; every other option belongs on the outermost.
* ``masterslave:`` has at least two members, in order, never random: inside another composite it
  makes the whole list ordered. ``fanout:`` means all of its members, so it holds no "one of these".
* Duplicates are dropped, the first wins.
* ``str()`` and ``repr()`` are redacted, canonical and parse again, to the same order and options
  (members that differ in nothing but a password become one). ``unredacted()`` gives back an equal
  value when parsed; options that came from the library's options are written out in it (a plain
  URI has no place for them and loses them).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote_plus

from understudy.core.endpoint import Endpoint
from understudy.core.member import (
    CORE_SCHEMES,
    PLAIN_SCHEMES,
    TLS_OPTIONS,
    MemberReader,
    member_text,
)
from understudy.core.option_reader import build, is_option, nearest
from understudy.core.options import Options
from understudy.core.order import place
from understudy.core.redact import Source, redact
from understudy.errors import ConfigurationError

__all__ = ["AGENT_SCHEMES", "COMPOSITES", "FailoverURI", "parse", "parse_members"]

COMPOSITES = ("failover", "static", "masterslave", "discovery", "fanout")
AGENT_SCHEMES = ("file", "http", "https", "multicast")
ONE_OF = frozenset({"failover", "masterslave"})  # composites that stand for one broker

LIST_OPENING = re.compile(r"([A-Za-z]{1,20})\s*:?\s*(?://)?\s*\(")

MAX_LENGTH = 65536  # 1000 members with room to spare
MAX_DEPTH = 16


@dataclass(frozen=True)
class FailoverURI:
    """A parsed address. ``endpoints`` are in listed order; ``options`` say whether to shuffle."""

    scheme: str  # of the composite, or of a plain URI its own
    endpoints: tuple[Endpoint, ...]
    options: Options
    agents: tuple[str, ...] = field(default=(), repr=False)  # who announces more of them
    origins: Mapping[str, str] = field(  # option -> "default", "URI" or "options"
        default_factory=dict, compare=False, repr=False
    )

    def unredacted(self) -> str:
        """The canonical text, with credentials."""
        return self._text(redacted=False)

    @property
    def redacted(self) -> str:
        """The canonical text without passwords; what str() gives."""
        return self._text(redacted=True)

    def __str__(self) -> str:
        return self.redacted

    def __repr__(self) -> str:
        return f"FailoverURI({str(self)!r})"

    def _text(self, *, redacted: bool) -> str:
        members = ",".join(member_text(one, redacted=redacted) for one in self.endpoints)
        if self.scheme not in COMPOSITES:
            return members
        agents = ",".join(redact(one) if redacted else one for one in self.agents)
        if self.scheme == "discovery":
            members = f"static:({members})" if members else ""
        elif agents and self.scheme != "fanout":
            agents = f"discovery:({agents})"
        listed = ",".join(filter(None, (members, agents)))
        query = "&".join(
            f"{name}={quote(self.options.text(name, redacted=redacted), safe='*/:,')}"
            for name, origin in self.origins.items()
            if origin != "default" and (self.scheme, name) != ("masterslave", "randomize")
        )
        return f"{self.scheme}:({listed})" + (f"?{query}" if query else "")


def parse(
    text: str,
    *,
    options: Mapping[str, object] | None = None,
    schemes: Container[str] | None = None,
    member_options: Collection[str] | None = None,
    agents: Collection[str] = AGENT_SCHEMES,
) -> FailoverURI:
    """Parses an address of any form above.

    ``options`` are the library's (lower precedence than the URI), ``schemes`` replaces the member
    schemes known here, ``member_options`` are the query options that the host library takes
    (None = any, it judges itself), and ``agents`` the schemes of discovery agents. Raises
    `ConfigurationError`, and nothing else.
    """
    text, source = _checked(text)
    reader = MemberReader(source, CORE_SCHEMES if schemes is None else schemes, member_options)
    composite = _composite_scheme(text, source)
    if composite is None:
        settings, origins = build((), options, source, scheme="")
        endpoint = reader.read(text, "the address", settings.nested, bare=True)
        return FailoverURI(endpoint.scheme, (endpoint,), settings, origins=origins)
    group = _read_group(text, composite, source)
    ordered = any(inner.scheme == "masterslave" for inner in group.walk())
    settings, origins = build(group.pairs, options, source, scheme=composite, ordered=ordered)
    flattening = _Flattening(reader, source, agents)
    endpoints = tuple(dict.fromkeys(flattening.read(group, settings.nested)))
    uri = FailoverURI(composite, endpoints, settings, tuple(flattening.agents), origins)
    preferred = [
        reader.read(one, "a member of priorityURIs", {}, bare=True)
        for one in settings.priority_uris
    ]
    _check_whole(uri, preferred, source)
    return uri


def parse_members(
    text: str,
    *,
    nested: Mapping[str, str] | None = None,
    schemes: Container[str] | None = None,
) -> tuple[Endpoint, ...]:
    """A learned list: addresses separated by commas or line ends, empty ones skipped."""
    if not text.strip():
        return ()
    text, source = _checked(text)
    reader = MemberReader(source, CORE_SCHEMES if schemes is None else schemes)
    parts = [part.strip() for line in text.splitlines() for part in _split_commas(line)]
    found = (reader.read(part, "a member", nested or {}, bare=False) for part in parts if part)
    return tuple(dict.fromkeys(found))


def _checked(text: str) -> tuple[str, Source]:
    """What must hold for the whole text, so that the rest can rely on it."""
    if not isinstance(text, str):
        raise ConfigurationError(f"an address must be text, not {type(text).__name__}")
    if len(text) > MAX_LENGTH:
        raise ConfigurationError(f"an address may have {MAX_LENGTH} characters, not {len(text)}")
    text, source = text.strip(), Source(text)
    if not text:
        raise ConfigurationError("the address is empty")
    if not all(character.isprintable() or character in "\t\r\n" for character in text):
        raise source.error("an address may not hold control characters; write them as %XX")
    if ";" in text:
        raise source.error(
            'an address may not hold a raw ";": commas stand between the members of a list, and in '
            "a password it is written %3B"
        )
    depth = deepest = 0
    for character in text:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
        if depth < 0:
            break
    if depth:
        raise source.error("the parentheses are not balanced; in a password write %28 and %29")
    if deepest > MAX_DEPTH:
        raise source.error(f"addresses may nest {MAX_DEPTH} deep")
    return text, source


def _composite_scheme(text: str, source: Source) -> str | None:
    """None for a plain address; an error for a list whose scheme is not quite one."""
    scheme, colon, _ = text.partition(":")
    if colon and scheme.lower() in COMPOSITES:
        return scheme.lower()
    opening = LIST_OPENING.match(text)
    hint = nearest(f"{opening[1]}:", [f"{known}:" for known in COMPOSITES]) if opening else ""
    if hint:
        listed = ", ".join(f"{known}:" for known in COMPOSITES)
        raise source.error(f"a list in parentheses begins with one of {listed}{hint}")
    return None


@dataclass(frozen=True)
class _Group:
    """A composite as written: members are texts or groups."""

    scheme: str
    members: tuple[str | _Group, ...]
    pairs: tuple[tuple[str, str], ...]
    bare: bool  # without parentheses

    def walk(self) -> Iterator[_Group]:
        yield self
        for member in self.members:
            if isinstance(member, _Group):
                yield from member.walk()


def _read_group(text: str, scheme: str, source: Source, depth: int = 1) -> _Group:
    if depth > MAX_DEPTH:  # no parentheses needed: failover:failover:...
        raise source.error(f"addresses may nest {MAX_DEPTH} deep")
    rest = text[len(scheme) + 1 :].strip().removeprefix("//").strip()
    query, bare = "", not rest.startswith("(")
    if bare:
        listed, mark, after = rest.partition("?")
        if not listed.strip():  # failover:?updateURIsURL=...
            rest, query = "", after
    else:
        end = _closing(rest)
        rest, tail = rest[1:end], rest[end + 1 :].strip().removeprefix("/")
        mark, query = tail[:1], tail[1:]
        if mark not in ("", "?"):
            raise source.error(f'after the list of {scheme}: only "?" and options may follow')
    members: list[str | _Group] = []
    for number, part in enumerate(_split_list(rest), 1):
        if not part:
            raise source.error(f"member {number} of {scheme}: is empty")
        inner = _composite_scheme(part, source)
        members.append(part if inner is None else _read_group(part, inner, source, depth + 1))
    return _Group(scheme, tuple(members), _pairs(query, source), bare)


def _closing(text: str) -> int:
    """Where the parenthesis that opens the text closes; the text is balanced."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return position
    raise AssertionError(f"unbalanced: {len(text)} characters")


def _split_commas(text: str) -> list[str]:
    parts, depth, begin = [], 0, 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == "," and not depth:
            parts.append(text[begin:position])
            begin = position + 1
    return [*parts, text[begin:]]


def _split_list(text: str) -> list[str]:
    parts = [part.strip() for part in _split_commas(text)]
    return parts if parts[-1] else parts[:-1]


def _pairs(query: str, source: Source) -> tuple[tuple[str, str], ...]:
    pairs = []
    for pair in filter(None, (part.strip() for part in query.split("&"))):
        name, equals, value = pair.partition("=")
        name, value = unquote_plus(name.strip()), unquote_plus(value.strip())
        if "@" in query and not (equals and is_option(name)):  # most likely a piece of a password
            raise source.error(
                "a raw at sign behind the list; in a password write it as %40, and ) as %29"
            )
        if not equals:
            raise source.error(f"option {source.quote(name)} has no value; write name=value")
        pairs.append((name, value))
    return tuple(pairs)


class _Flattening:
    """Members of nested groups in order; agents on the side."""

    def __init__(self, reader: MemberReader, source: Source, schemes: Collection[str]) -> None:
        self.reader = reader
        self.source = source
        self.schemes = schemes  # of agents
        self.agents: dict[str, None] = {}

    def read(self, group: _Group, nested: Mapping[str, str]) -> list[Endpoint]:
        found: list[Endpoint] = []
        for number, member in enumerate(group.members, 1):
            label = f"member {number} of {group.scheme}:"
            if isinstance(member, _Group):
                self._check_inner(group, member)
                inner = {
                    name.removeprefix("failover.nested.").removeprefix("nested."): value
                    for name, value in member.pairs
                }
                found += self.read(member, {**nested, **inner})
            elif group.scheme in ("discovery", "fanout") and self._is_agent(member):
                self._add_agent(member, label)
            elif group.scheme == "discovery":
                raise self.source.error(
                    f"{label} is no discovery agent ({', '.join(sorted(self.schemes))}); "
                    "write fixed addresses as static:(…)"
                )
            else:
                last = number == len(group.members)
                found.append(self.reader.read(member, label, nested, bare=group.bare and last))
        if group.scheme == "masterslave" and len(set(found)) < 2:
            raise self.source.error("masterslave: needs at least two different members")
        return found

    def _check_inner(self, outer: _Group, inner: _Group) -> None:
        if inner.scheme == "fanout":
            raise self.source.error(f"fanout: must be outermost, not inside {outer.scheme}:")
        if outer.scheme == "fanout" and inner.scheme in ONE_OF:
            raise self.source.error(
                f"fanout: sends to all of its members, {inner.scheme}: means one of them; "
                "use static:(…) inside fanout:"
            )
        for name, _ in inner.pairs:
            bare = name.removeprefix("failover.")
            if not bare.startswith("nested.") or bare == "nested.":
                raise self.source.error(
                    f"option {self.source.quote(name)} stands on the inner {inner.scheme}:(…), "
                    "where only nested.* may; "
                    f"put it on the outermost {outer.scheme}:(…)?"
                )

    def _is_agent(self, text: str) -> bool:
        return text.partition(":")[0].lower() in self.schemes

    def _add_agent(self, text: str, label: str) -> None:
        if any(map(str.isspace, text)) or len(text.partition(":")[2].strip("/")) == 0:
            raise self.source.error(f"{label} is no valid discovery agent")
        self.agents[text] = None


def _check_whole(uri: FailoverURI, preferred: list[Endpoint], source: Source) -> None:
    """Rules between the list and its options."""
    options = uri.options
    grows = bool(uri.agents or (options.update_uris_url and options.update_uris_supported))
    if not uri.endpoints and not grows:
        raise source.error("the list is empty; that needs discovery: or updateURIsURL")
    if uri.scheme == "fanout" and not grows and options.min_ack_count > len(uri.endpoints):
        raise source.error(
            f"minAckCount is {options.min_ack_count} but fanout: lists {len(uri.endpoints)}"
        )
    listed = {place(one): str(one) for one in uri.endpoints}
    for one in preferred:
        if not grows and place(one) not in listed:
            raise source.error(
                f"priorityURIs names {one}, which is not in the list"
                f"{nearest(str(one), listed.values())}"
            )
    for name in sorted(TLS_OPTIONS & options.nested.keys()):
        if not grows and all(one.scheme in PLAIN_SCHEMES for one in uri.endpoints):
            raise source.error(f"option nested.{name} is about TLS, which no member uses")
