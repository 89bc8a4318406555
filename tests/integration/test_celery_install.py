"""What works after `pip install` alone, and what is refused in words that help."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import understudy
from understudy.testing.brokers import RabbitMQ
from understudy.testing.celery_worker import Worker, celery_command, client, environment

pytestmark = pytest.mark.integration


def python(program: str, **env: str) -> str:
    """What a fresh interpreter prints; it sees installed packages only, not the source folders."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "CELERY_"))}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**clean, **env},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    return done.stdout.strip()


CONNECT = "with connection as c:\n c.connect(); print(c.connected, c.transport.driver_type)"


def test_celery_finds_the_scheme_without_any_import(rabbit_a: RabbitMQ) -> None:
    program = (
        "from celery import Celery; import os\n"
        "connection = Celery('x', broker=os.environ['URI']).connection()\n" + CONNECT
    )
    assert python(program, URI=f"failover:({rabbit_a.uri})") == "True amqp"


def test_celery_takes_it_from_the_environment(rabbit_a: RabbitMQ) -> None:
    program = "from celery import Celery\nconnection = Celery('x').connection()\n" + CONNECT
    assert python(program, CELERY_BROKER_URL=f"failover://({rabbit_a.uri})") == "True amqp"


def test_plain_kombu_needs_one_import(rabbit_a: RabbitMQ) -> None:
    program = (
        "import understudy.kombu, os; from kombu import Connection\n"
        "connection = Connection(os.environ['URI'])\n" + CONNECT
    )
    assert python(program, URI=f"failover:{rabbit_a.uri}") == "True amqp"


def test_importing_celery_or_kombu_loads_next_to_nothing_of_ours() -> None:
    program = (
        "import sys, celery, kombu, kombu.serialization\n"
        "print(sorted(m for m in sys.modules if m.partition('.')[0] == 'understudy'))"
    )
    loaded = ["understudy", "understudy.kombu", "understudy.kombu.registration"]
    # an editable install is found through a module of its own, which may add "understudy.errors"
    assert set(loaded) <= set(eval(python(program)))
    assert "understudy.kombu.transport" not in eval(python(program))


def test_celery_takes_it_from_the_command_line(
    rabbit_a: RabbitMQ, tmp_path: Path, unique: str
) -> None:
    """`celery -b URI inspect ping` finds a worker that was told by its settings."""
    uri = f"failover:({rabbit_a.uri})?timeout=20000"
    settings = {"broker_url": uri, "task_default_queue": unique}
    with Worker(settings, tmp_path, name=f"w-{unique[-8:]}") as worker:
        worker.wait_ready()
        done = subprocess.run(
            celery_command("-b", uri, "inspect", "-d", worker.hostname, "-t", "60", "ping"),
            env=environment({}, tmp_path / "journal"),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert "pong" in done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("broker_url", "says"),
    [
        (["failover:(amqp://a,amqp://b)", "amqp://c"], "stands alone"),
        ("failover:(amqp://a:b;c@d)", "%3B"),
        ("failover:(amqp://a)?timout=3", "timeout"),
        ("failover:(nonsense://a)", "nonsense"),
        ("failover://()", "empty|at least one|no endpoint|no member"),
        ("fanout:(static:(amqp://a,amqp://b))", "not supported for kombu yet"),
    ],
    ids=["list", "semicolon", "option", "scheme", "empty", "fanout"],
)
def test_a_bad_broker_url_is_refused_with_a_reason(broker_url: str | list[str], says: str) -> None:
    with (
        client({"broker_url": broker_url}) as app,
        pytest.raises(understudy.ConfigurationError, match=says),
    ):
        app.tasks["tests.mark"].delay()
