"""Options of bridges that are refused, and why: those that are not there yet, those of ActiveMQ's
network connectors (in snake_case) that mean nothing here or are always so, and near guesses.

What stands here is told behind ``FILE: bridges.NAME.OPTION``.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["REFUSED", "snake_case"]

_DEMAND = "cannot be used yet: it belongs to forwarding on demand; list what is to be forwarded in"
_DEMAND += " statically_included"
_LOGIN = "is no option of a bridge: a login belongs into the addresses of source and target"
_CHOICE = "is no option of a bridge: name those to run behind `understudy bridge -c FILE`"
_INSIDE = "is no option of a bridge: it is about the inside of ActiveMQ; leave it out"

_INCLUDED = "is no option of a bridge: list what is to be forwarded in statically_included"

_ON_DEMAND = """
    dynamically_included dynamic_only destination_filter consumer_ttl
    conduit_subscriptions conduit_network_queue_subscriptions advisory_prefetch_size
    suppress_duplicate_queue_subscriptions suppress_duplicate_topic_subscriptions
    advisory_ack_percentage sync_durable_subs use_virtual_dest_subs
"""
_LISTED = "include included queue queues topic topics destinations"
_LOGINS = """
    user_name password remote_user_name remote_password user username login passcode
"""
_INSIDES = """
    dispatch_async use_broker_names_as_id_seed client_id_token bridge_factory
    gc_destination_views gc_sweep_time
"""

REFUSED: Final = {
    **dict.fromkeys(_ON_DEMAND.split(), _DEMAND),
    **dict.fromkeys(_LISTED.split(), _INCLUDED),
    "dynamically_included_destinations": _DEMAND,
    "statically_included_destinations": "is called statically_included here",
    "excluded_destinations": "is called excluded here",
    **dict.fromkeys(_LOGINS.split(), _LOGIN),
    **dict.fromkeys(_INSIDES.split(), _INSIDE),
    "name": "is no option of a bridge: its name is that of its table, [bridges.NAME]",
    "uri": "is no option of a bridge: write source and target",
    **dict.fromkeys(("auto_start", "enabled", "disabled"), _CHOICE),
    "static_bridge": "need not be said: what is in statically_included is forwarded always",
    "always_sync_send": "need not be said: no message is settled before the target confirmed it",
    "use_compression": "is no option of a bridge: bodies go on as they are",
    "advisory_for_failed_forward": "is no option of a bridge: what cannot be forwarded is parked,"
    " with its reason",
    "check_duplicate_messages_on_duplex": "is no option of a bridge: understudy.duplicates tells"
    " consumers what has come before",
    "ssl_context": "is no option of a bridge: cafile, certfile and keyfile belong into the"
    " addresses of source and target",
}


def snake_case(option: str) -> str:
    """An option of ActiveMQ as it is written here: ``dynamicOnly`` is ``dynamic_only``."""
    return re.sub(r"(?<=[a-z])TTL$|(?<=[a-z])[A-Z]", lambda found: f"_{found[0].lower()}", option)
