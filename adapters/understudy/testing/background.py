"""A call in the background of a test."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Background"]


class Background:
    """A call in a thread of its own; what it raised or returned is asked for later."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.error: BaseException | None = None
        self.result: object = None
        self._call = call
        self._thread = threading.Thread(target=self._run, name="background", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as exc:
            self.error = exc

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def is_over_within(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def join(self, seconds: float = 60.0) -> None:
        """Wait for the end, which must come; raises what the call raised."""
        assert self.is_over_within(seconds), f"the call still hangs after {seconds:g} s"
        if self.error is not None:
            raise self.error
