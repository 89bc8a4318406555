"""Run private brokers by hand until Ctrl-C: ``python -m understudy.testing.brokers rabbitmq``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence

from understudy.testing.brokers.activemq import ActiveMQ
from understudy.testing.brokers.rabbitmq import RabbitMQ
from understudy.testing.brokers.redis import Redis
from understudy.testing.brokers.server import Server, ServerMissing, StartFailed, start_all

_KINDS: dict[str, type[RabbitMQ] | type[ActiveMQ] | type[Redis]] = {
    kind.kind: kind for kind in (RabbitMQ, ActiveMQ, Redis)
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Start servers, print their URIs, wait for Ctrl-C or SIGTERM, leave nothing behind."""
    parser = argparse.ArgumentParser(prog="python -m understudy.testing.brokers")
    parser.add_argument("kind", choices=sorted(_KINDS))
    parser.add_argument("--count", type=int, default=1, metavar="N", help="how many (default 1)")
    parser.add_argument("--json", action="store_true", help="one line of JSON for all of them")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    servers = [
        _KINDS[options.kind](name=f"{options.kind}-{number}")
        for number in range(1, options.count + 1)
    ]
    try:
        start_all(*servers)
        _report(servers, as_json=options.json)
        while True:
            signal.pause()
    except (ServerMissing, StartFailed) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        for server in servers:
            server.close()


def _report(servers: Sequence[Server], *, as_json: bool) -> None:
    if not as_json:
        print(*(server.uri for server in servers), sep="\n", flush=True)
        return
    facts = [
        {
            "kind": server.kind,
            "name": server.name,
            "uri": server.uri,
            "host": server.host,
            "port": server.port,
            "pid": server.pid,
            "folder": str(server.folder),
        }
        for server in servers
    ]
    print(json.dumps({"servers": facts}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
