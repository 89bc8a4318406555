"""Run private brokers by hand until Ctrl-C: ``python -m understudy.testing.brokers rabbitmq``.

Each line names a server's addresses and the process to kill or freeze.
"""

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
    parser.add_argument("--stomp", action="store_true", help="RabbitMQ speaks STOMP too")
    parser.add_argument("--json", action="store_true", help="one line of JSON for all of them")
    options = parser.parse_args(arguments)
    if options.stomp and options.kind == Redis.kind:
        parser.error("--stomp is for rabbitmq; activemq speaks STOMP in any case, redis never")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    names = [f"{options.kind}-{number}" for number in range(1, options.count + 1)]
    servers = [_make(options.kind, name, stomp=options.stomp) for name in names]
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


def _make(kind: str, name: str, *, stomp: bool) -> Server:
    return (
        RabbitMQ(name=name, stomp=True)
        if stomp and kind == RabbitMQ.kind
        else _KINDS[kind](name=name)
    )


def _addresses(server: Server) -> list[str]:
    if isinstance(server, RabbitMQ) and server.stomp_port is not None:
        return [server.uri, server.stomp_uri]
    return [server.uri]


def _report(servers: Sequence[Server], *, as_json: bool) -> None:
    if not as_json:
        for server in servers:
            print(*_addresses(server), f"pid {server.pid}", sep="  ", flush=True)
        return
    facts = [
        {
            "kind": server.kind,
            "name": server.name,
            "uri": server.uri,
            "uris": _addresses(server),
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
