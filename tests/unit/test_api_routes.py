"""What the role API answers: the truth at the moment of the answer, and 503 in doubt."""

from __future__ import annotations

import ipaddress
import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest

from understudyd.api.metrics import METRICS
from understudyd.api.page import Pulse, Snapshot
from understudyd.api.routes import ALIVE, GETS, STALE, Asked, Command, Reply, View, route
from understudyd.config.model import Api, Secret
from understudyd.status import (
    FENCING_FAILED,
    BrokerStatus,
    ClusterStatus,
    HistoryEntry,
    Member,
    NodeStatus,
    Role,
    believed,
    stamp,
)

NOW = 1000.0
NODES = (
    Member("a", Role.MASTER, "master", 2, "h:1", True, 0.5, token=7),
    Member("b", Role.STANDBY, "standby", 1, "h:2", True, None),
)
STATUS = NodeStatus("g", "a", Role.MASTER, "master", 7, None, "a", BrokerStatus(True, 42))
SNAPSHOT = Snapshot(
    STATUS,
    ClusterStatus("g", "file:/x", "a", 7, NODES),
    history=(HistoryEntry(7, "a", Role.MASTER, stamp(0), "first", 0.5),),
    uris=("amqp://h:1", "amqp://h:2"),
    metrics={"renewals_total": 5},
    at=NOW - 1,
)
MASTER = View(NOW, Pulse(NOW - 0.1, NOW + 2, 7), SNAPSHOT)


def of(view: View, **changes: Any) -> View:
    """The view with another status."""
    assert view.snapshot is not None
    status = replace(view.snapshot.status, **changes)
    return replace(view, snapshot=replace(view.snapshot, status=status))


STANDBY = of(MASTER, role=Role.STANDBY, state="standby", token=None, broker=BrokerStatus())
STANDBY = replace(STANDBY, pulse=Pulse(NOW - 0.1, -math.inf, 0))


def get(path: str, view: View = MASTER, method: str = "GET") -> Reply:
    reply = route(Asked(method, path), view, Api())
    assert isinstance(reply, Reply)
    return reply


def code(path: str, view: View = MASTER) -> int:
    return get(path, view).code


ROLES = ("/master", "/primary", "/leader", "/readiness?role=master")


@pytest.mark.parametrize("path", ROLES)
def test_a_master_is_one_while_all_of_it_is_true(path: str) -> None:
    """I3: 200 on at most one node and only while it may accept."""
    assert code(path) == 200
    assert code(path, STANDBY) == 503
    for false in (
        replace(MASTER, now=NOW + 2),  # the lease ends at this very moment
        replace(MASTER, pulse=replace(MASTER.pulse, token=6)),  # of an earlier reign
        replace(MASTER, pulse=Pulse(NOW, -math.inf, 0)),
        of(MASTER, broker=BrokerStatus(False, 42)),
        replace(MASTER, is_broker_alive=False),
        replace(MASTER, is_control_alive=False),
        replace(MASTER, pulse=replace(MASTER.pulse, beat=NOW - STALE - 0.1)),
        replace(MASTER, snapshot=None),
        of(MASTER, role=Role.NONE, state="starting"),
    ):
        assert code(path, false) == 503


@pytest.mark.parametrize("path", ["/standby", "/replica"])
def test_a_standby_is_no_master(path: str) -> None:
    assert code(path, STANDBY) == 200
    assert code(path) == 503
    assert code(path, replace(STANDBY, is_control_alive=False)) == 503


def test_a_blocked_sidecar_is_not_alive_but_still_master_for_a_while() -> None:
    """Catalogue 27: the lease goes on, liveness does not."""
    blocked = replace(MASTER, pulse=replace(MASTER.pulse, beat=NOW - 2 * ALIVE))
    assert (code("/liveness"), code("/liveness", blocked)) == (200, 503)
    assert code("/master", blocked) == 200


def test_a_standby_is_ready_unless_its_lock_does_not_answer() -> None:
    """Catalogue 1, 3 and 40."""
    assert code("/readiness", STANDBY) == 200
    assert STANDBY.snapshot is not None
    cut = replace(STANDBY.snapshot, is_ready=False, trouble="the lock does not answer")
    reply = get("/readiness", replace(STANDBY, snapshot=cut))
    assert reply.code == 503
    assert json.loads(reply.body)["reason"] == "the lock does not answer"
    assert code("/health", replace(STANDBY, snapshot=cut)) == 200


def test_health_is_the_brokers_on_a_master() -> None:
    assert code("/health") == 200
    assert code("/health", of(MASTER, broker=BrokerStatus(False, 42))) == 503
    assert code("/readiness", of(MASTER, broker=BrokerStatus(False, 42))) == 503


def test_a_broker_that_cannot_be_killed_is_an_alarm() -> None:
    """Catalogue 17."""
    stuck = of(MASTER, role=Role.NONE, state=FENCING_FAILED)
    assert stuck.snapshot is not None
    stuck = replace(stuck, snapshot=replace(stuck.snapshot, trouble="FENCING FAILED"))
    for path in ("/health", "/readiness"):
        assert (code(path, stuck), json.loads(get(path, stuck).body)["reason"]) == (
            503,
            "FENCING FAILED",
        )
    assert code("/liveness", stuck) == 200  # to start it again would not help
    assert (
        'understudy_fencing_failed{group="g",node="a"} 1.0' in get("/metrics", stuck).body.decode()
    )
    assert 'understudy_fencing_failed{group="g",node="a"} 0.0' in get("/metrics").body.decode()


def test_status_counts_the_lease_now() -> None:
    assert json.loads(get("/status", replace(MASTER, now=NOW + 0.5)).body) == {
        "group": "g",
        "node": "a",
        "role": "master",
        "state": "master",
        "token": 7,
        "lease_remaining_s": 1.5,
        "master": "a",
        "broker": {"healthy": True, "pid": 42},
        "warnings": [],
        "version": STATUS.version,
    }
    assert json.loads(get("/status", STANDBY).body)["lease_remaining_s"] is None


def test_cluster_ages_its_nodes() -> None:
    data = json.loads(get("/cluster").body)
    assert {key: data[key] for key in ("group", "lock", "master", "token")} == {
        "group": "g",
        "lock": "file:/x",
        "master": "a",
        "token": 7,
    }
    keys = {"name", "role", "state", "weight", "api", "healthy", "seen_s"}
    assert [set(node) for node in data["nodes"]] == [keys, keys]
    assert [node["seen_s"] for node in data["nodes"]] == [1.5, None]


def test_nobody_is_taken_for_a_master_by_what_it_said_once() -> None:
    """What is on the board stays there when its node dies."""
    assert MASTER.snapshot is not None
    dead = Member("b", Role.MASTER, "master", 1, "h:2", True, seen_s=1.0, token=6)
    cluster = replace(MASTER.snapshot.cluster, nodes=(NODES[0], dead))
    view = replace(MASTER, snapshot=replace(MASTER.snapshot, cluster=cluster))
    a, b = json.loads(get("/cluster", view).body)["nodes"]
    assert (a["role"], a["healthy"]) == ("master", True)
    assert (b["role"], b["state"], b["healthy"]) == ("none", "silent (was master)", False)
    assert believed([NODES[0]], "a") == (NODES[0],)
    silent = replace(NODES[0], seen_s=60.0)
    assert [one.role for one in believed([silent, NODES[1]], "a")] == ["none", "standby"]


def test_history_and_uris() -> None:
    assert json.loads(get("/history").body) == [
        {
            "token": 7,
            "node": "a",
            "role": "master",
            "at": "1970-01-01T00:00:00.000Z",
            "cause": "first",
            "took_s": 0.5,
        }
    ]
    reply = get("/uris")
    assert (reply.body, reply.kind) == (b"amqp://h:1,amqp://h:2", "text/plain; charset=utf-8")


@pytest.mark.parametrize("path", [path for path in GETS if path != "/metrics"])
def test_a_dead_or_silent_sidecar_is_503_everywhere(path: str) -> None:
    silent = replace(MASTER, pulse=replace(MASTER.pulse, beat=NOW - STALE - 1))
    for view in (silent, replace(MASTER, is_control_alive=False), replace(MASTER, snapshot=None)):
        assert code(path, view) == 503


@pytest.mark.parametrize("path", list(GETS))
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_all_ways_of_reading_are_alike(path: str, method: str) -> None:
    assert get(path, method=method).code == code(path)
    assert get(f"{path}/?x=y", method=method).code == code(path)


def test_what_there_is_not() -> None:
    missing = get("/mastr")
    assert missing.code == 404
    assert b"/master" in missing.body
    assert get("/master", method="POST").code == 405
    assert get("/switchover").headers == (("allow", "POST"),)
    assert code("/") == 404


# --- metrics --------------------------------------------------------------------------------------

LINE = re.compile(r'understudy_(\w+)\{((?:\w+="(?:[^"\\]|\\.)*",?)*)\} (\S+)')


def samples(view: View) -> dict[str, float]:
    text = get("/metrics", view).body.decode()
    found: dict[str, float] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = LINE.fullmatch(line)
            assert match, line
            found[match[1]] = float(match[3])
    assert set(re.findall(r"# TYPE understudy_(\w+) (?:gauge|counter)", text)) == found.keys()
    return found


def test_metrics_tell_the_role_and_the_lease() -> None:
    told = samples(replace(MASTER, own=(("api_requests_total", 3, {"code": "200"}),)))
    assert told.keys() <= METRICS.keys()
    assert (told["up"], told["master"], told["ready"]) == (1, 1, 1)
    assert (told["token"], told["lease_remaining_seconds"]) == (7, 2)
    assert (told["renewals_total"], told["api_requests_total"]) == (5, 3)
    assert told["member_seen_seconds"] == 1.5


def test_metrics_are_told_of_a_dead_sidecar_too() -> None:
    told = samples(replace(MASTER, is_control_alive=False))
    assert (told["up"], told["master"]) == (0, 0)
    assert samples(replace(MASTER, snapshot=None))["up"] == 0


def test_labels_are_escaped() -> None:
    text = get("/metrics", of(MASTER, node='a"\\\n')).body.decode()
    assert 'node="a\\"\\\\\\n"' in text


# --- commands -------------------------------------------------------------------------------------

API = Api(Secret("hush"))


def post(
    path: str = "/switchover",
    body: bytes = b"",
    token: str = "Bearer hush",
    peer: str = "10.0.0.1",
    api: Api = API,
) -> Reply | Command:
    return route(Asked("POST", path, peer, token, body), STANDBY, api)


def refused(answer: Reply | Command) -> int:
    assert isinstance(answer, Reply)
    assert "hush" not in answer.body.decode()
    return answer.code


def test_a_command_needs_the_token() -> None:
    """Catalogue 101."""
    assert post() == Command("switchover")
    assert post(token="bearer  hush ") == Command("switchover")
    for wrong in ("", "hush", "Bearer", "Bearer hus", "Bearer hushh", "Basic hush", "Bearer hüsh"):
        answer = post(token=wrong)
        assert refused(answer) == 401
        assert isinstance(answer, Reply)
        assert answer.headers == (("www-authenticate", "Bearer"),)
    assert refused(post(api=Api())) == 403


@pytest.mark.parametrize(
    ("peer", "is_allowed"),
    [
        ("10.0.0.1", True),
        ("11.0.0.1", False),
        ("::ffff:10.0.0.1", True),
        ("fe80::1%eth0", True),
        ("::1", False),
        ("", False),
    ],
)
def test_a_command_comes_from_an_allowed_network(peer: str, is_allowed: bool) -> None:
    """Catalogue 101."""
    allow = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fe80::/10"))
    answer = post(peer=peer, api=replace(API, allow=allow))
    assert isinstance(answer, Command) == is_allowed
    if not is_allowed:
        assert refused(answer) == 403


def test_commands_have_a_body_or_none() -> None:
    assert post(body=b'{"to": "b"}') == Command("switchover", "b")
    assert post("/failover", b'{"to": "b"}') == Command("failover", "b")
    assert post("/pause", b"{}") == Command("pause")
    for path, body in (
        ("/switchover", b"to=b"),
        ("/switchover", b'"b"'),
        ("/switchover", b'{"to": 1}'),
        ("/switchover", b'{"too": "b"}'),
        ("/pause", b'{"to": "b"}'),
        ("/switchover", b"\xff"),
        ("/switchover", b"[" * 4000),
    ):
        assert refused(post(path, body)) == 400
