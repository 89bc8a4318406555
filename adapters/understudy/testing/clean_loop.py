"""Runs coroutines in asyncio's debug mode, and fails when they leave anything behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["run_clean"]

T = TypeVar("T")


def run_clean(main: Coroutine[Any, Any, T], timeout: float = 60.0) -> T:
    """The result of ``main``, which must end within ``timeout`` seconds.

    AssertionError when a task is left over, or asyncio reports an error that nobody retrieved.
    """
    reports: list[str] = []

    async def watched() -> T:
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 10.0  # other processes share this machine
        loop.set_exception_handler(lambda _, context: reports.append(str(context)))
        result = await asyncio.wait_for(main, timeout)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks are left over: {left}"
        gc.collect()  # what is pending or was never retrieved is reported now
        await asyncio.sleep(0)
        return result

    result = asyncio.run(watched(), debug=True)
    assert not reports, f"asyncio reports: {reports}"
    return result
