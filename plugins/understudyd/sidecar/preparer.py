"""What has to be done between taking the lock and starting the broker.

Fence the old holder's broker where only the lease says that it is dead; stamp the stores, which
refuse an older token; run pre_promote, which may refuse for reasons of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from understudyd.config.model import Group, Node
from understudyd.drivers.command import run
from understudyd.drivers.port import Reign
from understudyd.drivers.process import environment
from understudyd.drivers.stamp import Stamp
from understudyd.sidecar.stamper import Stamper
from understudyd.sidecar.words import Prepare, Prepared

__all__ = ["follow", "hook_environment", "prepare"]


def prepare(
    group: Group, node: Node, order: Prepare, stamper: Stamper, warn: Callable[[str], None]
) -> Prepared:
    """Blocks; raises nothing."""
    token = order.reign.token
    env = hook_environment(group, node, order.reign, old=order.old)
    if order.old and "fence" in group.hooks:
        outcome = run(group.hooks["fence"], env)
        if not outcome.ok:  # the lease is over: its guard has fenced it, this was to make sure
            warn(f"the hook fence failed for {order.old}: {outcome.detail}")
    if group.stores:
        stamp = Stamp(token, node.name, order.instance, group.name)
        stamped = stamper.put(group.stores, stamp, order.patience)
        if stamped.veto:
            return Prepared(token, stamped.veto, stamped.known)
        if stamped.trouble:
            warn(f"not all stores have the stamp: {stamped.trouble}")
    if "pre_promote" in group.hooks:
        outcome = run(group.hooks["pre_promote"], env)
        if not outcome.ok:
            return Prepared(token, f"the hook pre_promote refused: {outcome.detail}")
    return Prepared(token)


def follow(group: Group, node: Node, hook: str, reign: Reign) -> str:
    """Run a hook that can't refuse; what went wrong, or nothing. Blocks; raises nothing."""
    outcome = run(group.hooks[hook], hook_environment(group, node, reign))
    return "" if outcome.ok else f"the hook {hook} failed: {outcome.detail}"


def hook_environment(group: Group, node: Node, reign: Reign, *, old: str = "") -> dict[str, str]:
    facts = {
        "UNDERSTUDY_GROUP": group.name,
        "UNDERSTUDY_NODE": node.name,
        "UNDERSTUDY_OLD_MASTER": old,
    }
    return {**environment(node.broker, reign, os.environ), **facts}
