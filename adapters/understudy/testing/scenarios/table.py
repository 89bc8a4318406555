"""Which scenario runs on which adapter, and why one does not: the table and its reasons."""

from __future__ import annotations

from collections.abc import Iterator

from understudy.testing.scenarios.drivers import DRIVERS

__all__ = ["CATALOGUE", "COLUMNS", "NOT_APPLICABLE", "Table"]

COLUMNS = ("core", *(driver.name for driver in DRIVERS))

CATALOGUE = {
    "F01": "URI forms",
    "F02": "bad option is refused",
    "F03": "parentheses, empty list, trailing comma",
    "F04": "duplicate members",
    "F05": "unknown hosts do not block known ones",
    "F06": "no limit by default",
    "F07": "give up on start-up",
    "F08": "reconnect=false",
    "F09": "initialReconnectDelay is honoured",
    "F10": "delay sequence",
    "F11": "exponential off, exponent, caps",
    "F12": "order",
    "F13": "randomisation",
    "F14": "send blocks while down, continues after",
    "F15": "send timeout",
    "F16": "timeout bounds connecting too",
    "F17": "acks and closes while stopping never hang",
    "F18": "offline acks and closes are harmless",
    "F19": "consumers come back",
    "F20": "10 workers x 9 forced drops",
    "F21": "messages through a restart",
    "F22": "refused subscription is not retried",
    "F23": "prefetch after failover",
    "F24": "blocked pull goes on",
    "F25": "delivered, not acked: redelivered, old ack void",
    "F26": "tx with pending acks is rolled back",
    "F27": "commit in doubt",
    "F28": "reply to a send lost",
    "F29": "ack lost",
    "F30": "tx sends are replayed",
    "F31": "tx redelivery goes to another consumer",
    "F32": "tx redelivery puts nothing in the DLQ",
    "F33": "durable subscriber in tx",
    "F34": "slow ack in tx",
    "F35": "duplicates beyond the window",
    "F36": "stalled socket",
    "F37": "half-open server",
    "F38": "unusable server",
    "F39": "stop during reconnect",
    "F40": "backups",
    "F41": "no leaks",
    "F42": "priorityBackup returns",
    "F43": "priority stays",
    "F44": "event pairs",
    "F45": "updateURIsURL",
    "F46": "learned list beside the configured one",
    "F47": "cluster spreading",
    "F48": "server-only URI parts are not pushed",
    "F49": "nested options",
    "F50": "publisher fails over to another broker",
    "F51": "oversize frame",
    "F52": "state after give-up",
    "F53": "interrupted caller",
    "D01": "static agent back-off",
    "D02": "attempts of an agent's list end",
    "D03": "masterslave needs two",
    "D04": "options of found members",
    "D05": "found members come and go",
    "D06": "bad agent address",
    "D07": "list over HTTP",
    "D08": "bridge after a discovery failure",
    "D09": "fanout delivers to all",
    "D10": "fanout waits for minAckCount",
}

ADAPTERS = tuple(driver.name for driver in DRIVERS)
STOMP = tuple(driver.name for driver in DRIVERS if driver.protocol == "stomp")
IN_CORE = "one parser serves every adapter: runs once, in the core"
ON_FAKE_CLOCK = "needs a fake clock, and one machine serves every adapter: runs once, in the core"
NOT_PUSHED = "no broker pushes lists to clients yet; that comes with cluster announcements"
NO_TRANSACTIONS = "kombu's Producer and Consumer have no transactions"

#: (scenarios, columns, why they do not run there)
REASONS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("F01 F02 F03 F04 D03", ADAPTERS, IN_CORE),
    ("F06 F10 F11", ADAPTERS, ON_FAKE_CLOCK),
    ("F24", STOMP, "STOMP has no way to ask for one message"),
    ("F26 F27 F30 F31 F32 F33 F34", ("kombu",), NO_TRANSACTIONS),
    (
        "F35",
        ADAPTERS,
        "no adapter drops a suspected duplicate: a copy is flagged (F28); the application's own "
        "duplicate window is tested apart from adapters",
    ),
    ("F47 F48", ADAPTERS, NOT_PUSHED),
    ("F51", ("stomp-rabbitmq",), "RabbitMQ's STOMP plugin takes headers of any size"),
    (
        "D01",
        ADAPTERS,
        "static: is a plain list without a back-off of its own: its members wait as F10 says",
    ),
    ("D08", ADAPTERS, "about bridges, not about clients"),
    ("D09 D10", ("kombu",), "fanout: is not built for kombu, which refuses it"),
)

NOT_APPLICABLE: dict[tuple[str, str], str] = {
    (scenario, column): text
    for scenarios, columns, text in REASONS
    for scenario in scenarios.split()
    for column in columns
}


class Table:
    """Filled while tests run; printed at the end."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str], list[str]] = {}

    @property
    def is_empty(self) -> bool:
        return not self._cells

    def note(self, scenario: str, column: str, outcome: str) -> None:
        self._cells.setdefault((scenario, column), []).append(outcome)

    def lines(self) -> Iterator[str]:
        reasons: dict[str, str] = {}  # text -> its letter
        titles = 48
        yield " " * titles + "".join(f"{column:<16}" for column in COLUMNS)
        for scenario, title in CATALOGUE.items():
            cells = [self._cell(scenario, column, reasons) for column in COLUMNS]
            yield f"{scenario} {title}"[: titles - 1].ljust(titles) + "".join(
                f"{cell:<16}" for cell in cells
            )
        for text, letter in reasons.items():
            yield f"({letter}) {text}"

    def _cell(self, scenario: str, column: str, reasons: dict[str, str]) -> str:
        outcomes = self._cells.get((scenario, column))
        if outcomes:
            if "failed" in outcomes:
                return "FAILED"
            return "ok" if "passed" in outcomes else "skipped"
        if column == "core":
            return ""
        text = NOT_APPLICABLE.get((scenario, column))
        if text is None:
            return "not run"
        return f"({reasons.setdefault(text, str(len(reasons) + 1))})"
