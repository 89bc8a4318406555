"""What is seen while a run goes on: a live panel on a terminal, a line a second elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

__all__ = ["LiveView", "PlainView", "Status", "View", "view_for"]

BARS = "▁▂▃▄▅▆▇█"
SAMPLE = 0.5  # s for each bar
BARS_SHOWN = 60

COLOURS = {
    "up": "green",
    "running": "green",
    "frozen": "cyan",
    "killed": "red",
    "starting": "yellow",
    "down": "red",
}


@dataclass(frozen=True)
class Status:
    """A moment of a run."""

    title: str
    elapsed: float
    doing: str
    brokers: Mapping[str, str] = field(default_factory=dict)  # name -> state
    active: str | None = None
    sent: int = 0
    executed: int = 0
    errors: int = 0
    rate: float = 0.0  # executed a second
    done: str = "executed"  # what is said of those

    @property
    def waiting(self) -> int:
        return self.sent - self.executed


class View(Protocol):
    """Shows a run; used as a context manager."""

    def say(self, text: str) -> None:
        """Print a line that stays."""

    def show(self, status: Status) -> None:
        """Called often; draws when it is time to."""

    def __enter__(self) -> View: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def view_for(console: Console) -> View:
    """The view that suits where the output goes."""
    can_redraw = console.is_terminal and not console.is_dumb_terminal
    return LiveView(console) if can_redraw and "utf" in console.encoding else PlainView(console)


class PlainView:
    """Lines, for files and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._printed = 0.0

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, status: Status) -> None:
        now = time.monotonic()
        if now < self._printed + 1:
            return
        self._printed = now
        if not status.sent:
            self.say(f"{status.elapsed:5.1f} s  {status.doing}")
            return
        brokers = " ".join(f"{name}:{state}" for name, state in status.brokers.items())
        self.say(
            f"{status.elapsed:5.1f} s  {brokers:<20} sent {status.sent:>6}  "
            f"{status.done} {status.executed:>6} ({status.rate:.0f}/s)  errors {status.errors}"
        )

    def __enter__(self) -> PlainView:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass


class LiveView:
    """A panel that is redrawn in place; lines said go above it."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._rates: deque[float] = deque(maxlen=BARS_SHOWN)
        self._title = ""
        self._sampled = 0.0

    def say(self, text: str) -> None:
        self._live.console.print(text, markup=False, highlight=False)

    def show(self, status: Status) -> None:
        now = time.monotonic()
        if status.title != self._title:
            self._title = status.title
            self._rates.clear()
        if status.sent and now >= self._sampled + SAMPLE:
            self._sampled = now
            self._rates.append(status.rate)
        self._live.update(self._panel(status), refresh=True)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def _panel(self, status: Status) -> Group:
        head = Text.assemble(
            (status.title, "bold"), f"  {status.elapsed:.1f} s  ", (status.doing, "bold yellow")
        )
        brokers = Text("  ")
        for name, state in status.brokers.items():
            active = ", in use" if name == status.active and state == "up" else ""
            colour = COLOURS.get(state, "yellow")
            brokers.append_text(Text.assemble(f"{name} ", (state, colour), active, "   "))
        counts = Text.assemble(
            f"  sent {status.sent}   {status.done} {status.executed}   waiting {status.waiting}   ",
            (f"errors {status.errors}", "red" if status.errors else ""),
        )
        bars = Text.assemble("  ", (sparkline(self._rates), "green"), f" {status.rate:.0f}/s")
        return Group(head, brokers, *([counts, bars] if status.sent else []))


def sparkline(values: deque[float]) -> str:
    """A bar for each value, the highest one full; a blank for nothing."""
    top = max(values, default=0.0)
    return "".join(
        BARS[min(int(value / top * len(BARS)), len(BARS) - 1)] if value else " " for value in values
    )
