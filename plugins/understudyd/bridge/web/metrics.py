"""Bridges in Prometheus' text format. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from understudyd.api.metrics import METRICS as SIDECARS
from understudyd.api.metrics import Sample, render

__all__ = ["METRICS", "text"]

# name -> kind, meaning
METRICS = {
    "bridge_up": ("gauge", "1 while the bridge process works: 0 when it is dead or stands still"),
    "bridge_info": ("gauge", "1; the version is a label"),
    "bridge_state": ("gauge", "1; the state of each link and its reason are labels"),
    "bridge_moving": ("gauge", "1 while a link runs: 0 when it is in any other state"),
    "bridge_forwarded_total": ("counter", "messages confirmed by the target"),
    "bridge_parked_total": ("counter", "messages put into a parking queue"),
    "bridge_retried_total": ("counter", "times that a message was refused and sent again"),
    "bridge_dropped_total": ("counter", "copies that had come far enough, or nobody wanted"),
    "bridge_expired_total": ("counter", "messages whose time to live was over"),
    "bridge_duplicates_total": ("counter", "messages that came again and were not sent again"),
    "bridge_requests_total": ("counter", "messages whose reply is to come back over the bridge"),
    "bridge_requests_unserved_total": ("counter", "messages whose reply cannot come back"),
    "bridge_requesters": ("gauge", "those who may still get a reply"),
    "bridge_replies_total": ("counter", "replies brought to them"),
    "bridge_replies_lost_total": ("counter", "replies whose requester was gone, or parked ones"),
    "bridge_rate": ("gauge", "messages forwarded in a second, of the last seconds"),
    "bridge_in_flight": ("gauge", "messages taken from the source and not settled"),
    "bridge_oldest_seconds": ("gauge", "how long the oldest of those is in flight"),
    "bridge_lag": ("gauge", "messages that wait at the source, where it can tell"),
    "bridge_spooled": ("gauge", "messages on disk on their way, where there is a spool"),
    "bridge_spooled_bytes": ("gauge", "bytes of those"),
    **{name: SIDECARS[name] for name in SIDECARS if name.startswith("api_")},
}

_VALUES = {  # of a link -> its metric
    "forwarded": "bridge_forwarded_total",
    "parked": "bridge_parked_total",
    "retried": "bridge_retried_total",
    "dropped": "bridge_dropped_total",
    "expired": "bridge_expired_total",
    "duplicates": "bridge_duplicates_total",
    "requests": "bridge_requests_total",
    "requests_unserved": "bridge_requests_unserved_total",
    "requesters": "bridge_requesters",
    "replies": "bridge_replies_total",
    "replies_lost": "bridge_replies_lost_total",
    "rate": "bridge_rate",
    "in_flight": "bridge_in_flight",
    "oldest_s": "bridge_oldest_seconds",
    "lag": "bridge_lag",
    "spooled": "bridge_spooled",
    "spooled_bytes": "bridge_spooled_bytes",
}


def text(told: dict[str, Any] | None, *, is_up: bool, own: Iterable[Sample]) -> str:
    """What is known only of a process that works is left out when it does not."""
    samples: list[Sample] = [("bridge_up", is_up, {})]
    if told is not None and is_up:
        samples.append(("bridge_info", 1, {"version": told["version"]}))
        for bridge in told["bridges"]:
            for link in bridge["links"]:
                samples += _of_link(bridge["name"], link)
    return render([*samples, *own], {}, METRICS)


def _of_link(bridge: str, link: dict[str, Any]) -> list[Sample]:
    labels = {"bridge": bridge, "destination": link["destination"]}
    state = {"state": link["state"], "reason": link["reason"]}
    samples: list[Sample] = [
        ("bridge_state", 1, {**labels, **state}),
        ("bridge_moving", link["state"] == "running", labels),
    ]
    for name, metric in _VALUES.items():
        value = link[name]
        if value is None and name == "oldest_s":
            value = 0  # nothing is in flight
        if value is not None:
            samples.append((metric, value, labels))
    return samples
