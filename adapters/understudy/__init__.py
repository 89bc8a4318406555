"""Failover URIs for the AMQP and STOMP clients that people already use."""

from __future__ import annotations

__version__ = "0.1.0"
