"""The page in Prometheus' text format. Pure.

The values that the API can tell itself are in `render`; what only the sidecar knows comes in the
snapshot, under the names of `METRICS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["METRICS", "Sample", "render"]

# name -> kind, meaning. Own code and not prometheus-client, which is 5 MB of memory for 20 lines.
METRICS = {
    "up": ("gauge", "1 while the sidecar works: 0 when it is dead, frozen or blocked"),
    "info": ("gauge", "1; the version is a label"),
    "master": ("gauge", "1 while /master answers 200"),
    "ready": ("gauge", "1 while /readiness answers 200"),
    "broker_healthy": ("gauge", "1 while the last health checks of the broker succeeded"),
    "fencing_failed": ("gauge", "1 while this node's broker can't be killed; it keeps the lock"),
    "paused": ("gauge", "1 while the group is paused"),
    "token": ("gauge", "fencing token of the group's last known master"),
    "lease_remaining_seconds": ("gauge", "how long this node's lease may still be relied on"),
    "beat_age_seconds": ("gauge", "since when the sidecar has not told that it lives"),
    "member_seen_seconds": ("gauge", "how long ago each node of the group was heard of"),
    "api_requests_total": ("counter", "answered requests, by status code"),
    "api_connections": ("gauge", "open connections"),
    "api_evicted_total": ("counter", "connections closed because they asked nothing in time"),
    "renewals_total": ("counter", "acknowledged writes of the lock"),
    "renewals_failed_total": ("counter", "attempts to reach the lock that failed"),
    "renewal_seconds_total": ("counter", "time that acknowledged writes of the lock took"),
    "promotions_total": ("counter", "times this node became master"),
    "demotions_total": ("counter", "times this node stopped being master"),
    "fences_total": ("counter", "times the broker was killed"),
    "takeover_seconds": ("gauge", "how long the last promotion took, from cause to healthy"),
    "kill_seconds": ("gauge", "how long the last kill took, from the order to reaped"),
    "kill_estimate_seconds": ("gauge", "how long a kill may take, with the memory there is now"),
    "kill_limit_seconds": ("gauge", "kill of the timings: how long a kill may take at most"),
    "guard_restarts_total": ("counter", "guard processes that had to be replaced"),
    "board_failures_total": ("counter", "attempts to reach the board that failed"),
}

Sample = tuple[str, float, Mapping[str, str]]
"""Name without its prefix, value, labels."""


def render(
    samples: Iterable[Sample],
    labels: Mapping[str, str],
    metrics: Mapping[str, tuple[str, str]] = METRICS,
) -> str:
    """The text; ``labels`` are added to each sample, which are grouped by name."""
    grouped: dict[str, list[str]] = {}
    for name, value, own in samples:
        pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in {**labels, **own}.items())
        grouped.setdefault(name, []).append(f"understudy_{name}{{{pairs}}} {float(value)!r}\n")
    return "".join(_head(name, *metrics[name]) + "".join(lines) for name, lines in grouped.items())


def _head(name: str, kind: str, meaning: str) -> str:
    return f"# HELP understudy_{name} {meaning}\n# TYPE understudy_{name} {kind}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
