"""``understudy cluster``: look at a master/slave group and give it orders."""

from __future__ import annotations

from understudyd.cli.cluster.commands import cluster

__all__ = ["cluster"]
