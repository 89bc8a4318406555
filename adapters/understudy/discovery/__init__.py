"""Where candidate endpoints come from, beside those that the URI lists.

An adapter calls `attach` once for each supervisor::

    self.discovery = discovery.attach(uri, supervisor, schemes={"amqp", "amqps", "tcp", "ssl"})
    …
    self.discovery.connected(endpoint, connection)     # in dial(), once a connection is made
    self.discovery.trusts(endpoint)                    # before a login that is not the URI's goes
    self.discovery.close()                             # with the supervisor

and parses with ``agents=discovery.agent_schemes()``. From then on ``uri.endpoints`` are only the
configured ones, perhaps none at all; ``supervisor.endpoints`` are all.

What is no agent here, although ActiveMQ has one of that name
* ``static:(…)`` inside ``discovery:`` lists configured endpoints. ActiveMQ's static agent announces
  a member again and again with delays of its own (D01: 1, 2, 4 s for one that fails within
  ``minConnectTime``); it feeds bridges, which try one address each. Our machine has the whole list:
  a member that fails goes to the end of it, delays come between passes, and
  ``maxReconnectAttempts`` counts passes (D02). A second back-off below that one would only keep us
  from the only broker that is left.
* ``masterslave:(a,b)`` needs two members and is never shuffled (D03); the parser sees to both.
"""

from __future__ import annotations

from understudy.discovery.agent import DiscoveryAgent, ListensOnConnection, Reports
from understudy.discovery.attached import Discovery, Look, attach, check, look
from understudy.discovery.memory import MemoryAgent
from understudy.discovery.registry import agent_schemes, agents_of, make_agent

__all__ = [
    "Discovery",
    "DiscoveryAgent",
    "ListensOnConnection",
    "Look",
    "MemoryAgent",
    "Reports",
    "agent_schemes",
    "agents_of",
    "attach",
    "check",
    "look",
    "make_agent",
]
