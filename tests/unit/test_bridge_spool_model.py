"""A spool over a folder that fails and dies at any moment, by rules in any order (scenario 70)."""

from __future__ import annotations

from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from understudyd.bridge.spool.format import OVERHEAD
from understudyd.bridge.spool.port import SpoolFull
from understudyd.bridge.spool.store import Store
from understudyd.testing.spooled import MemoryFiles

QUOTA = 8 << 10


def opened(files: MemoryFiles) -> Store:
    store = Store(files, QUOTA, Random(1))
    store.open()
    return store


class Spooling(RuleBasedStateMachine):
    """What was promised is there, in order; what comes twice is only what was not promised."""

    @initialize(seed=st.integers(0, 1 << 32))
    def begin(self, seed: int) -> None:
        self.files = MemoryFiles(Random(seed))
        self.rng = Random(seed)
        self.store = opened(self.files)
        self.sent = 0  # messages, each made once more until it is promised
        self.promised: list[int] = []
        self.doubtful: set[int] = set()
        self.acknowledged = 0  # below it nothing is owed any more

    def payload(self, number: int) -> bytes:
        return b"%d " % number + bytes(number * 37 % 300)

    @rule(
        count=st.integers(1, 12), fails=st.sampled_from(["", "", "write", "sync", "create", "cut"])
    )
    def append(self, count: int, fails: str) -> None:
        numbers = list(range(self.sent, self.sent + count))
        if fails:
            self.files.fails.add(fails)
        try:
            kept = self.store.append([self.payload(one) for one in numbers], b"m%d" % (count % 2))
        except (OSError, SpoolFull):
            self.doubtful.update(numbers)
            return
        finally:
            self.files.fails.clear()
        self.promised += numbers[:kept]
        self.doubtful.update(numbers[kept:])
        self.sent += kept

    @rule(share=st.floats(0, 1), fails=st.sampled_from(["", "", "write", "sync", "delete"]))
    def acknowledge(self, share: float, fails: str) -> None:
        records = self.there()
        done = records[: int(share * len(records))]
        if not done:
            return
        if fails:
            self.files.fails.add(fails)
        size = sum(OVERHEAD + len(payload) for _, payload in done)
        self.promised = self.promised[self._promised_among(done) :]
        try:
            self.store.acknowledge(done[-1][0] + 1, size)
        except OSError:
            pass
        finally:
            self.files.fails.clear()

    def _promised_among(self, done: list[tuple[int, bytes]]) -> int:
        seen = {int(payload.split()[0]) for _, payload in done}
        count = 0
        while count < len(self.promised) and self.promised[count] in seen:
            count += 1
        self.old = seen
        return count

    @rule()
    def reopen(self) -> None:
        """kill -9: what was written is there."""
        self.store = opened(self.files)

    @rule()
    def die(self) -> None:
        self.files.die()
        self.store = opened(self.files)

    def there(self) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        number = self.store.cursor
        while (batch := self.store.read(number)[1]) != []:
            found += batch
            number = batch[-1][0] + 1
        return found

    @invariant()
    def nothing_is_lost(self) -> None:
        records = self.there()
        assert [number for number, _ in records] == sorted({number for number, _ in records})
        for _, payload in records:
            assert payload == self.payload(int(payload.split()[0]))
        found = [int(payload.split()[0]) for _, payload in records]
        first = {}  # where each is for the last time
        for place, number in enumerate(found):
            first[number] = place
        assert set(self.promised) <= set(found)
        places = [first[number] for number in self.promised]
        assert places == sorted(places)
        assert not self.store.damage
        assert self.store.used <= QUOTA


TestSpooling = Spooling.TestCase
TestSpooling.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
