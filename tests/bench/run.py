"""Measures the adapters beside their peers, on this machine, in one run: ``make bench``.

    make bench                                  everything, about ten minutes
    make bench ARGS="--only kombu-confirmed"    one case; repeat the option for more
    make bench ARGS="--runs 3"                  fewer rounds for each case
    make bench ARGS="--json FILE"               instead of bench-results/bench.json

Bars are reported, never asserted: the exit code is 0 also when one is missed. It is 1 when a case
could not be measured.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import (
    bridge,
    bridge_steady,
    bridge_stomp,
    endurance,
    kombu_adapter,
    pika_adapter,
    role_api,
    sidecar,
    stomp_adapter,
)
from tests.bench.lab import Lab
from tests.bench.outcome import Case, Outcome
from tests.bench.report import Progress, print_table, settings, write_json

from understudy.testing.brokers import ServerMissing

CASES: tuple[Case, ...] = (
    *kombu_adapter.CASES,
    *pika_adapter.CASES,
    *stomp_adapter.CASES,
    *endurance.CASES,
    *sidecar.CASES,
    *role_api.CASES,
    *bridge.CASES,
    *bridge_steady.CASES,
    *bridge_stomp.CASES,
)

STUCK = 600  # s without a finished round; then the stacks are shown and the run ends


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    logging.getLogger("understudy").setLevel(logging.CRITICAL)  # faults are the point here
    chosen = [case for case in CASES if not args.only or case.name in args.only]
    began = time.time()
    outcomes: list[Outcome] = []
    failed: list[str] = []
    with Lab() as lab, Progress() as progress:
        for case in chosen:
            rounds = max(args.runs or case.rounds, 1)
            progress.begin(case.name, rounds)

            def step() -> None:
                faulthandler.dump_traceback_later(STUCK, exit=True)
                progress.step()

            faulthandler.dump_traceback_later(STUCK, exit=True)
            found: list[Outcome] = []
            try:
                found = case.measure(lab, rounds, step)
            except ServerMissing as missing:
                print(f"bench: a server is missing: {missing}", file=sys.stderr)
                return 1
            except Exception:
                failed.append(case.name)
                traceback.print_exc()
            progress.end(found)
            outcomes += found
        faulthandler.cancel_dump_traceback_later()
        facts = settings(lab, began)
    print_table(outcomes, facts)
    write_json(args.json, outcomes, facts)
    print(f"written: {args.json}", file=sys.stderr)
    if failed:
        print(f"bench: not measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure beside the peers.")
    names = [case.name for case in CASES]
    parser.add_argument(
        "--only", action="append", metavar="CASE", choices=names, help=", ".join(names)
    )
    parser.add_argument("--runs", type=int, metavar="N", help="rounds of each case")
    parser.add_argument("--json", type=Path, default=Path("bench-results/bench.json"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
