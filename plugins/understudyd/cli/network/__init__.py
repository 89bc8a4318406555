"""``understudy network``: look at bridges, pause them, see to what they parked."""

from __future__ import annotations

from understudyd.cli.network.commands import network

__all__ = ["network"]
