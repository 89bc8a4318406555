"""The broker side of Understudy: sidecar, bridges and the command line."""

from __future__ import annotations
