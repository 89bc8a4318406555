"""``python -m understudy.testing.demo``: see the package."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from understudy.errors import UnderstudyError
from understudy.testing.brokers import RabbitMQ

try:
    from rich.console import Console

    from understudy.testing.demo import queues, report
    from understudy.testing.demo.brokers import Brokers
    from understudy.testing.demo.outcome import Outcome
    from understudy.testing.demo.plan import (
        FULL,
        QUICK,
        Contestant,
        Load,
        celery_list,
        celery_list_with_confirms,
        failover,
    )
    from understudy.testing.demo.scenario import Run
    from understudy.testing.demo.view import Status, View, view_for
except ModuleNotFoundError as missing:
    sys.exit(f'{missing.name} is missing: pip install "understudy[kombu,cli]" celery')

CONTESTANTS = {
    "understudy": failover,
    "list": celery_list,
    "confirms": celery_list_with_confirms,
}
INTERRUPTED = 130  # as a shell says it


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m understudy.testing.demo",
        description="Kill and freeze real RabbitMQ nodes under a real Celery application, once "
        "with an Understudy failover URI and once with Celery's own list of brokers. "
        "Takes about two minutes, needs no broker running and leaves nothing behind.",
        epilog="Exit code: 0 when Understudy lost nothing, raised nothing and hung nowhere; "
        "1 when it did; 2 when the demonstration could not be carried out.",
    )
    load = Load()
    parser.add_argument("--quick", action="store_true", help="a shorter plan, about a minute")
    parser.add_argument("--json", action="store_true", help="JSON to stdout, progress to stderr")
    parser.add_argument(
        "--runs",
        type=_runs,
        default=["understudy", "list"],
        metavar="NAME,NAME",
        help="understudy: a failover URI; list: Celery's own `;` list of brokers; confirms: the "
        "same list with Celery's confirm_publish (default understudy,list)",
    )
    parser.add_argument(
        "--rate",
        type=_positive,
        default=load.rate,
        metavar="N",
        help=f"tasks a second, of all publishers together (default {load.rate:g})",
    )
    parser.add_argument(
        "--publishers",
        type=_positive_int,
        default=load.publishers,
        metavar="N",
        help=f"publisher processes (default {load.publishers})",
    )
    parser.add_argument(
        "--keep",
        type=lambda text: Path(text).absolute(),
        metavar="DIR",
        help="leave all records and logs in this new folder",
    )
    return parser


def _runs(text: str) -> list[str]:
    names = text.split(",")
    if not set(names) <= set(CONTESTANTS) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"must be some of {','.join(CONTESTANTS)}")
    return names


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e6:
        raise argparse.ArgumentTypeError("must be a number above 0")
    return number


def _positive_int(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the demonstration and say how it went; the exit code."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=options.json)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if options.keep:
            options.keep.mkdir(parents=True)
        return _demonstrate(options, console)
    except KeyboardInterrupt:
        console.print("interrupted; everything started was stopped")
        return INTERRUPTED
    except (UnderstudyError, OSError) as error:
        console.print(str(error), markup=False, highlight=False, style="red")
        return 2


def _demonstrate(options: argparse.Namespace, console: Console) -> int:
    load = Load(rate=options.rate, publishers=options.publishers)
    names = options.runs
    nodes = {name: RabbitMQ(name=f"demo-{name.lower()}", vhosts=["/", *names]) for name in "AB"}
    with ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.getsignal(number))
        brokers = Brokers(nodes)
        stack.callback(brokers.close)
        view = stack.enter_context(view_for(console))
        for number in (signal.SIGINT, signal.SIGTERM):  # cleaning up is not interrupted
            stack.callback(signal.signal, number, signal.SIG_IGN)
        _start(brokers, view)
        versions = _versions(nodes["A"])
        folder = options.keep or nodes["A"].folder / "demo"  # the latter goes with the broker
        outcomes = []
        for name in names:
            addresses = {key: node.uri_for(vhost=name) for key, node in nodes.items()}
            contestant = CONTESTANTS[name](addresses, load, name)
            _introduce(contestant, load, view)
            here = folder / name
            here.mkdir(parents=True)
            steps = QUICK if options.quick else FULL
            outcomes.append(Run(contestant, brokers, load, steps, here, view).carry_out())
        return _report(options, console, load, versions, outcomes)


def _start(brokers: Brokers[RabbitMQ], view: View) -> None:
    """Start both nodes side by side."""
    begin = time.monotonic()
    for name in brokers.nodes:
        brokers.start(name)
    while not brokers.are_up:
        elapsed = time.monotonic() - begin
        view.show(Status("Brokers", elapsed, "starting two RabbitMQ nodes", brokers.states))
        time.sleep(0.1)
        brokers.came_up()


def _versions(node: RabbitMQ) -> dict[str, str]:
    packages = {name: version(name) for name in ("understudy", "celery", "kombu")}
    return {**packages, "RabbitMQ": queues.version(node, "/")}


def _introduce(contestant: Contestant, load: Load, view: View) -> None:
    """Say what is run, with which settings."""
    view.say("")
    view.say(
        f"{contestant.name}: {load.rate:g} tasks/s from {load.publishers} publishers, "
        f"2 workers of {load.concurrency}, heartbeat {load.heartbeat} s"
    )
    for line in contestant.shown:
        view.say(f"  {line}")


def _report(
    options: argparse.Namespace,
    console: Console,
    load: Load,
    versions: dict[str, str],
    outcomes: Sequence[Outcome],
) -> int:
    if options.json:
        print(json.dumps(report.as_json(load, versions, outcomes), indent=2))
    else:
        report.print_report(console, versions, outcomes)
    return 0 if all(outcome.is_clean for outcome in outcomes if outcome.is_ours) else 1


if __name__ == "__main__":
    sys.exit(main())
