"""A journal behind a spool: what the target has is not sent again, equal or not (41, 70)."""

from __future__ import annotations

from pathlib import Path

from understudyd.bridge.dedup.filter import Filter
from understudyd.bridge.dedup.journal import Journal
from understudyd.bridge.ledger import Ledger
from understudyd.testing.spool_bench import SpoolBench, amqp, run


class Remembering:
    """What the shell does, with a target that confirms all it is sent."""

    def __init__(self, file: Path, bench: SpoolBench) -> None:
        self.filter, self.ledger = Filter(Journal(file, "bridge b")), Ledger()
        self.bench = bench
        self.sent: list[bytes] = []

    async def forward(self, count: int) -> None:
        """Open the spool and send on what it gives, up to so many; it is told, but no disk."""
        await self.filter.begin(self.ledger)
        await self.bench.spool.open(count, 131072)
        await self.bench.until(lambda: len(self.bench.got) >= count)
        wanted = self.filter.sift(self.bench.got, self.bench.spool)
        tags = [one[0] for one in wanted]
        self.ledger.take(tags, [(b"", b"", one[5], 1) for one in wanted], 0.0)
        self.ledger.skip(self.bench.got[-1][0])
        self.sent += self.ledger.send()[2::3]
        self.ledger.confirm([(len(tags), 1, True)])
        self.filter.confirmed(self.ledger)
        tag = self.ledger.acknowledge()
        assert tag == count
        self.filter.acknowledge(tag, lambda _: None)
        await self.filter.end()


def test_a_kill_before_the_cursor_is_on_disk_doubles_nothing(tmp_path: Path) -> None:
    async def scenario(bench: SpoolBench) -> None:
        await bench.fill(*[amqp(tag, b"same") for tag in range(1, 6)])
        first = Remembering(tmp_path / "a.db", bench)
        await first.forward(3)
        assert len(first.sent) == 3
        await bench.end()
        bench.bridge()
        again = Remembering(tmp_path / "a.db", bench)
        await again.forward(5)
        assert (len(again.sent), again.filter.duplicates) == (2, 3)

    run(scenario)


def test_a_spool_that_was_begun_anew_has_other_places(tmp_path: Path) -> None:
    """Somebody has deleted the folder, and equal messages get the numbers of the former."""

    async def scenario(bench: SpoolBench) -> None:
        for seed in (1, 2):
            bench.files.wipe()
            bench.bridge(seed)
            await bench.fill(*[amqp(tag, b"same") for tag in (1, 2)])
            await bench.end()
            bench.bridge(seed + 10)  # killed, so that all may have been given before
            forwarding = Remembering(tmp_path / "a.db", bench)
            await forwarding.forward(2)
            assert len(forwarding.sent) == 2
            await bench.end()

    run(scenario)
