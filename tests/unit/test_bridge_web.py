"""What the API of bridges answers; who is paused is remembered; where it listens."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from understudy.errors import ConfigurationError
from understudyd.api.routes import Asked, Command, Reply
from understudyd.bridge.front import Front
from understudyd.bridge.pauses import Pauses
from understudyd.bridge.run import _serve, run
from understudyd.bridge.status import Glance, summary
from understudyd.bridge.web.routes import VERBS, View, route
from understudyd.config.model import Api, Place, Secret
from understudyd.config.network import load_network

API = Api(Secret("hush"))
ALLOWED = "Bearer hush"


def bridge(name: str = "b", state: str = "running", reason: str = "") -> dict[str, Any]:
    glance = Glance("queue://a", state, reason, 1.5, 2, None, 10, 1, 3, 4, "")
    return summary(name, "amqp://x", "amqp://y", [glance])


def view(*bridges: dict[str, Any], silent: float = 0.1) -> View:
    return View({"version": "1", "bridges": list(bridges or [bridge()])}, silent)


def get(path: str, seen: View, method: str = "GET") -> tuple[int, Any]:
    answer = route(Asked(method, path), seen, API)
    assert isinstance(answer, Reply)
    is_json = answer.kind == "application/json"
    return answer.code, json.loads(answer.body) if is_json else answer.body.decode()


def post(path: str, seen: View, api: Api = API, **given: Any) -> Reply | Command:
    asked = Asked("POST", path, **{"peer": "10.0.0.1", "authorization": ALLOWED, **given})
    return route(asked, seen, api)


def test_status_is_what_was_written() -> None:
    assert get("/status", view()) == (200, {"bridges": [bridge()]})
    assert get("/status/?x=1", view(), "HEAD")[0] == 200


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (view(silent=3.1), "silent for 3.1 s"),
        (replace(view(), is_owner_alive=False), "is dead"),
        (View(None, 0.0), "not told anything"),
    ],
)
def test_what_is_old_counts_for_nothing(seen: View, why: str) -> None:
    code, told = get("/status", seen)
    assert (code, told["bridges"]) == (503, [])
    assert why in told["reason"]
    assert get("/health", seen)[0] == 503
    assert get("/metrics", seen) == (200, get("/metrics", seen)[1])
    assert "understudy_bridge_up{} 0.0" in get("/metrics", seen)[1]
    refused = post("/bridges/b/pause", seen)
    assert isinstance(refused, Reply)
    assert refused.code == 503


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("running", 200),
        ("paused", 200),
        ("pausing", 200),
        ("draining", 200),
        ("stalled", 503),
        ("blocked", 503),
        ("retrying", 503),
        ("holding", 503),
        ("waiting-target", 503),
        ("waiting-source", 503),
    ],
)
def test_health_is_that_nobody_is_in_a_state_he_should_not_be_in(state: str, code: int) -> None:
    seen = view(bridge("a"), bridge("b", state, "so it is"))
    answer, told = get("/health", seen)
    assert answer == code
    assert told["bridges"] == {"a": "running", "b": state}
    assert told["reason"] == (f"b is {state}: so it is" if code == 503 else "")
    assert get("/liveness", seen)[0] == 200


def test_a_slow_process_is_alive_for_a_while() -> None:
    assert get("/liveness", view(silent=9.0))[0] == 200
    assert get("/liveness", view(silent=11.0))[0] == 503


def test_metrics_tell_state_and_reason_of_each_link() -> None:
    code, text = get("/metrics", view(bridge("b", "blocked", 'low "memory"')))
    assert code == 200
    where = 'bridge="b",destination="queue://a"'
    lines = text.splitlines()
    told = f'understudy_bridge_state{{{where},state="blocked",reason="low \\"memory\\""}} 1.0'
    assert told in lines
    for name, value in {
        "moving": 0.0,
        "forwarded_total": 10.0,
        "parked_total": 1.0,
        "retried_total": 3.0,
        "rate": 1.5,
        "in_flight": 2.0,
        "oldest_seconds": 0.0,
        "lag": 4.0,
    }.items():
        assert f"understudy_bridge_{name}{{{where}}} {value}" in lines
    unknown = bridge()
    unknown["links"][0]["lag"] = None
    assert "bridge_lag" not in get("/metrics", view(unknown))[1]


@pytest.mark.parametrize("verb", VERBS)
def test_an_order_goes_to_the_bridge_process(verb: str) -> None:
    assert post(f"/bridges/b/{verb}", view()) == Command(verb, "b")


def test_who_may_not_order_anything_is_refused() -> None:
    cases: list[tuple[dict[str, Any], Api, int]] = [
        ({"authorization": ""}, API, 401),
        ({"authorization": "Bearer wrong"}, API, 401),
        ({}, Api(), 403),
        ({}, replace(API, allow=(ipaddress.ip_network("10.9.0.0/16"),)), 403),
        ({"body": b"["}, API, 400),
        ({"body": b'{"to": "x"}'}, API, 400),
    ]
    for given, api, code in cases:
        refused = post("/bridges/b/pause", view(), api, **given)
        assert isinstance(refused, Reply)
        assert refused.code == code


def test_what_there_is_not() -> None:
    code, told = get("/nothing", view())
    assert code == 404
    assert "/bridges/NAME/pause" in told["reason"]
    assert get("/bridges/b/pause", view())[0] == 405
    assert get("/status", view(), "POST")[0] == 405
    for path in ("/bridges/other/pause", "/bridges/b/explode", "/bridges//pause"):
        refused = post(path, view())
        assert isinstance(refused, Reply)
        assert refused.code == 404


def test_a_pause_is_remembered_until_it_is_ended(tmp_path: Path) -> None:
    pauses = Pauses(tmp_path)
    assert "b" not in pauses
    assert pauses.add("b", "by me") == ""
    again = Pauses(tmp_path)
    assert again.why("b") == "by me"
    assert again.remove("b") == ""
    assert "b" not in Pauses(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["paused.json"]


def test_where_nothing_is_remembered_that_is_said(tmp_path: Path) -> None:
    assert "no state folder" in Pauses(None).add("b", "by me")
    folder = tmp_path / "state"
    folder.mkdir()
    pauses = Pauses(folder)
    folder.rmdir()
    assert "not remembered" in pauses.add("b", "by me")
    assert "b" in pauses


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2, "paused": {}}', '{"format": 1}'])
def test_a_file_that_cannot_be_read_starts_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / "paused.json").write_text(text)
    with pytest.raises(ConfigurationError, match="delete it"):
        Pauses(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such folder"):
        Pauses(tmp_path / "none")


def test_where_it_listens(tmp_path: Path) -> None:
    file = tmp_path / "understudy.toml"

    def read(text: str, **environ: str) -> Any:
        file.write_text(text)
        return load_network(file, environ)

    assert read("").api is None
    said = read('[network]\napi = "10.0.0.1:8900"\nstate = "s"\n[api]\ntoken = "hush"\n')
    assert said.api == said.listen == Place("10.0.0.1", 8900)
    assert said.state == tmp_path / "s"
    assert "hush" not in repr(said)
    wide = read('[network]\napi = "mq1:8900"\nlisten = "0.0.0.0:8900"\n', STATE_DIRECTORY="/x:/y")
    assert (str(wide.listen), wide.state) == ("0.0.0.0:8900", Path("/x"))
    assert str(read("", UNDERSTUDY_NETWORK__API="mq2:1").api) == "mq2:1"
    with pytest.raises(ConfigurationError, match=r"network\.api is missing"):
        read('[network]\nlisten = "0.0.0.0:8900"\n')
    with pytest.raises(ConfigurationError, match=r"network\.apy is no known key.*api"):
        read('[network]\napy = "0.0.0.0:8900"\n')
    with pytest.raises(ConfigurationError, match=r"network\.token belongs to \[api\]"):
        read('[network]\napi = "mq1:8900"\ntoken = "hush"\n')
    with pytest.raises(ConfigurationError, match=r"api\.listen belongs to \[network\]"):
        read('[api]\nlisten = "mq1:8900"\n')


def test_a_certificate_that_is_not_there_is_told_with_its_key(tmp_path: Path) -> None:
    file = tmp_path / "understudy.toml"
    file.write_text('[network]\napi = "127.0.0.1:1"\n[api]\ntls_cert = "c"\ntls_key = "k"\n')
    with pytest.raises(ConfigurationError, match=r"api\.tls_cert: .*/c can't be read: No such"):
        run(file, [])


def test_a_signal_while_the_place_is_taken_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was asked to end while it tried; what had not begun then cannot be stopped."""

    def start(_: Front) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise ConfigurationError("can't listen")

    monkeypatch.setattr(Front, "start", start)
    file = tmp_path / "understudy.toml"
    file.write_text('[network]\napi = "127.0.0.1:1"\n')
    network = load_network(file, {})
    with pytest.raises(ConfigurationError, match="can't listen"):
        asyncio.run(_serve([], network, Pauses(None), lambda: ([], network)))
    assert "Exception" not in caplog.text
