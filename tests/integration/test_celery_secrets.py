"""No password is shown by anything that Celery prints, logs, sends or raises."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from kombu.utils.url import maybe_sanitize_url, sanitize_url

from understudy.testing import wait_until
from understudy.testing.brokers import RabbitMQ, free_port
from understudy.testing.celery_app import make_app
from understudy.testing.celery_worker import Worker, celery_command, client, environment

pytestmark = pytest.mark.integration

PIECES = ("hush4711", "quiet0815")  # each of them gives a leak away, however the rest is written
PASSWORD = PIECES[0] + "@:/%;,)(?&=# " + PIECES[1]
PATIENCE = 60.0


def leaks(text: str) -> list[str]:
    return [line for line in text.splitlines() if any(piece in line for piece in PIECES)]


def run(settings: dict[str, Any], folder: Path, arguments: tuple[str, ...]) -> str:
    """What a celery command printed; a broker_url among the settings goes by environment."""
    settings = dict(settings)
    env = environment(settings, folder / "journal", CELERY_BROKER_URL=settings.pop("broker_url"))
    env["UNDERSTUDY_CELERY"] = json.dumps(settings)
    done = subprocess.run(
        celery_command(*arguments),
        env=env,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=2 * PATIENCE,
    )
    return f"$ celery {arguments[-1]}\n{done.stdout}\n"


def test_nothing_that_celery_shows_holds_a_password(
    rabbit_a: RabbitMQ, tmp_path: Path, unique: str
) -> None:
    """Worker log and banner, report, remote control, settings, events, errors, quorum queues."""
    user = unique[-8:]
    rabbit_a.ctl("add_user", user, PASSWORD)
    rabbit_a.ctl("set_permissions", user, ".*", ".*", ".*")
    login = f"{user}:{quote(PASSWORD, safe='')}"
    there = f"amqp://{login}@{rabbit_a.host}:{rabbit_a.port}"
    nowhere = f"amqp://{login}@127.0.0.1:{free_port()}"
    settings = {
        "broker_url": f"failover:({nowhere},{there})?randomize=false&timeout=20000",
        "result_backend": "rpc://",
        "task_default_queue": unique,
        "task_default_queue_type": "quorum",
        "broker_native_delayed_delivery_queue_type": "classic",
        "worker_send_task_events": True,
    }
    events: list[Any] = []
    with (
        Worker(settings, tmp_path, name=f"w-{user}", level="DEBUG", pool="prefork") as worker,
        client(settings, events) as app,
    ):
        worker.wait_ready()
        add = app.tasks["tests.add"]
        assert add.apply_async((1, 2), countdown=1).get(timeout=PATIENCE) == 3
        in_process = [
            app.conf.humanize(with_defaults=False),
            repr(app.conf.table()),
            app.bugreport(),
            repr(app.connection()),
            repr(app.connection().info()),
            app.connection().as_uri(),
            repr(app.pool),
            repr(events),
            repr(app.control.inspect([worker.hostname], timeout=30.0).stats()),
        ]
        commands: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {}
        for name in ("report", "status", "stats", "conf", "report of the worker"):
            remote = ("inspect", "-d", worker.hostname, "-t", "30", name.partition(" ")[0])
            local = (name,) if name in ("report", "status") else remote
            commands[name] = (settings, local)
        wrong = {
            "bad option": f"failover:({there})?nonsense=1",
            "bad value": f"failover:({there})?timeout={quote(PASSWORD, safe='')}",
            "unbalanced": f"failover:({there}?timeout=1000",
            "semicolon": f"failover:({there};{nowhere})?timeout=1000",
            "no broker": f"failover:({nowhere})?timeout=1000&maxReconnectAttempts=2",
            "wrong password": f"failover:({there.replace('quiet', 'quiet0815')})?timeout=1000",
        }
        for name, uri in wrong.items():
            commands[name] = ({**settings, "broker_url": uri}, ("inspect", "ping"))
        with ThreadPoolExecutor(3) as pool:
            outputs = pool.map(lambda c: run(c[0], tmp_path, c[1]), commands.values())
            printed = dict(zip(commands, outputs, strict=True))
        in_process.append(error_of({**settings, "broker_url": wrong["no broker"]}))
        worker.terminate()
    assert "Setting up delayed delivery for broker" in worker.log
    for name, text in printed.items():
        print(name, len(text), text.strip().splitlines()[-1][:150])
    shown = {**printed, "worker": worker.log, "in process": "\n".join(in_process)}
    assert {name: leaks(text) for name, text in shown.items() if leaks(text)} == {}
    assert f"{user}:**@" in worker.log  # what was masked has been there
    assert "nonsense" in printed["bad option"]
    assert "%3B" in printed["semicolon"]


def error_of(settings: dict[str, Any]) -> str:
    """The text of the error when there is no broker."""
    with client(settings) as app:
        try:
            app.tasks["tests.mark"].delay()
        except Exception as exc:
            parts = [str(exc), repr(exc), repr(getattr(exc, "attempts", ""))]
            return "\n".join([*parts, repr(exc.__cause__), repr(exc.__context__)])
    raise AssertionError("there was a broker")


@pytest.mark.parametrize("scheme", ["failover:", "failover://", "masterslave:", "static:"])
def test_kombus_own_sanitizing_knows_our_uris(scheme: str) -> None:
    """kombu alone would take the list for one host and show all passwords but one."""
    make_app({})
    secret = quote(PASSWORD, safe="")
    uri = f"{scheme}(amqp://u:{secret}@a,amqp://v:{secret}@b)?timeout=5"
    for text in (sanitize_url(uri), maybe_sanitize_url(uri), maybe_sanitize_url(uri, mask="***")):
        assert not leaks(text)
        assert "@a" in text
        assert "@b" in text
    assert maybe_sanitize_url("amqp://u:pw@host//") == "amqp://u:**@host//"


def test_the_worker_still_sees_the_real_uri(rabbit_a: RabbitMQ, unique: str) -> None:
    """Masking is for eyes only: a connection made of a masked one works."""
    settings = {"broker_url": f"failover:({rabbit_a.uri})", "task_default_queue": unique}
    with client(settings) as app, app.connection() as connection, connection.clone() as again:
        again.connect()
        assert again.connected
        assert wait_until(lambda: again.transport.broker.supervisor.current is not None)
