"""What of a bridge's configuration would be without effect, or lose or double messages. No I/O but
a look whether the files are there that TLS needs.

Rules
* A link reads each entry of its own: where two have a destination in common, a topic's message
  would be forwarded twice, and a queue's messages would lose their order.
* An entry that stands for nothing is a mistake: a rename or an exclusion of what is not included.
* A queue's messages are not put into a topic: it keeps nothing for who is not there.
* A member of an end's URI names its host where it names a user, and its options are all read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

from understudy import parse
from understudy.core.endpoint import Endpoint
from understudy.core.member import MEMBER_OPTIONS
from understudy.core.option_reader import nearest
from understudy.core.options import OPTIONS
from understudy.core.redact import redact
from understudy.errors import ConfigurationError
from understudyd.bridge.lists import STOMP_SCHEMES
from understudyd.bridge.mapping.stomp import RESERVED
from understudyd.bridge.names import QUEUE, TOPIC, Pattern
from understudyd.bridge.queues import LONGEST_NAME
from understudyd.bridge.routes import Routes
from understudyd.config.model import Secret

__all__ = ["check_end", "check_headers", "check_routes", "one_broker_hint"]

MECHANISM = "auth_mechanism"  # of AMQP
SPOKEN = STOMP_SCHEMES | {"amqp", "amqps", "pyamqp"}
TLS_FILES = ("cafile", "certfile", "keyfile")


def check_routes(routes: Routes) -> None:
    """Raise ConfigurationError for an entry that stands for nothing, or for what another does too,
    or that loses messages."""
    for one, other in combinations(routes.static, 2):
        if one.overlaps(other) and one.is_system == other.is_system:
            raise ConfigurationError(
                f"{one.text!r} and {other.text!r} in statically_included have a destination in "
                "common, of which messages would come twice or out of order; leave one of them "
                "out, or make it narrower"
            )
    for place, (left, right) in enumerate(routes.renames):
        if not _is_included(left, routes.static):
            raise ConfigurationError(
                f"rename {left.text!r}: is not in statically_included, so it has no effect; "
                "include it, or leave it out"
            )
        if left.text == right.text:
            raise ConfigurationError(
                f"rename {left.text!r}: is given the name that it has, which has no effect; leave "
                "it out, or give it another"
            )
        for before, _ in routes.renames[:place]:
            if left.is_exact and before.matches(left.destination):
                raise ConfigurationError(
                    f"rename {left.text!r}: has no effect, since {before.text!r} stands before it "
                    "and matches it too; write the narrower one first"
                )
        if left.kind == QUEUE and right.kind == TOPIC:
            raise ConfigurationError(
                f"rename {left.text!r} = {right.text!r}: a topic keeps nothing for who is not "
                "there, so that messages taken from the queue would be lost; name a queue"
            )
    for pattern in routes.excluded:
        if not _is_included(pattern, routes.static):
            raise ConfigurationError(
                f"excluded {pattern.text!r}: nothing in statically_included matches it, so it has "
                "no effect; leave it out"
            )


def check_headers(names: Iterable[str], *, is_stomp: bool) -> None:
    """Raise ConfigurationError for headers to set that a target of STOMP has a meaning for, or AMQP
    no room for."""
    for name in names:
        if not is_stomp and (size := len(name.encode())) > LONGEST_NAME:
            raise ConfigurationError(
                f"headers_set: {name[:40]!r} has {size} bytes; valid is {LONGEST_NAME} at most"
            )
        if is_stomp and name in RESERVED:
            raise ConfigurationError(
                f"headers_set: {name!r} has a meaning of its own over STOMP, so it can't be set; "
                "take another name, or change the property in a transformer"
            )


def check_end(uri: Secret) -> None:
    """Raise ConfigurationError for what is wrong in the members of an end."""
    members = parse(uri.reveal()).endpoints
    if len({one.scheme in STOMP_SCHEMES for one in members}) > 1:
        raise ConfigurationError(
            f"{uri}: has members of AMQP and of STOMP; an end speaks one protocol, so give all "
            "members the scheme of one of them, with its port"
        )
    for one in members:
        if one.scheme not in SPOKEN:
            raise ConfigurationError(
                f"{one} does not say what is spoken there; write amqp:// or amqps:// (RabbitMQ), "
                "or stomp:// or stomp+ssl:// (ActiveMQ, usually port 61613; RabbitMQ) instead of "
                f"{one.scheme}://"
            )
        _check_member(one)


def one_broker_hint(source: Secret, target: Secret, routes: Routes) -> str:
    """What to think of when messages stay: that both ends, by two protocols, are one broker.

    Empty where they cannot be, or no queue keeps its name. No load can tell: several brokers may
    share a host.
    """
    ends = [parse(end.reveal()).endpoints for end in (source, target)]
    is_mixed = len({one.scheme in STOMP_SCHEMES for end in ends for one in end}) > 1
    shared = {one.host for one in ends[0]} & {one.host for one in ends[1]}
    queues = [one.destination for one in routes.static if one.is_exact and one.kind == QUEUE]
    if not is_mixed or not shared or all(routes.target(one) != one for one in queues):
        return ""
    return (
        f"; if {min(shared)} is the same broker at both ends, by two protocols, the bridge sends "
        "to the queue that it reads: rename it"
    )


def _check_member(one: Endpoint) -> None:
    _, _, rest = one.uri.partition("://")
    place = re.split(r"[/?]", rest, maxsplit=1)[0].rpartition("@")
    if place[1] and not place[2].partition(":")[0]:
        raise ConfigurationError(f"{one} names no host; write it behind the at sign")
    vhost = one.path.removeprefix("/")
    if "/" in vhost.strip("/"):
        raise ConfigurationError(
            f"{one} has a raw slash in its vhost; write {vhost.replace('/', '%2F')}"
        )
    valid = [*MEMBER_OPTIONS, *([] if one.scheme in STOMP_SCHEMES else [MECHANISM])]
    for name in one.query:
        if name not in valid:
            raise ConfigurationError(
                f"{one} has the option {redact(name)!r}, which no bridge reads"
                f"{nearest(name, [*valid, *OPTIONS])} (valid: {', '.join(valid)})"
            )
    for option in TLS_FILES:
        file = getattr(one.options, option)
        if file is not None and not Path(file).is_file():
            raise ConfigurationError(f"{one}: {option} = {file}: there is no such file")


def _is_included(pattern: Pattern, included: Iterable[Pattern]) -> bool:
    return any(pattern.overlaps(one) for one in included)
