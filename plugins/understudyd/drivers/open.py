"""From the configuration to the driver.

Third parties add drivers by an entry point of the group `understudy.drivers`: its name is the
driver's, its object is called as `ProcessDriver` is. All keys of a broker are optional then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import entry_points

from understudy.errors import ConfigurationError
from understudyd.config.model import DRIVER_GROUP, BrokerConfig
from understudyd.drivers.exec import ExecDriver
from understudyd.drivers.port import Driver
from understudyd.drivers.process import ProcessDriver
from understudyd.guard.words import Lock
from understudyd.lock.timings import Timings

__all__ = ["open_driver"]


def open_driver(
    config: BrokerConfig, lock: Lock, *, timings: Timings, owned: Callable[[], Iterable[int]]
) -> Driver:
    """Nothing is started yet. Raises ConfigurationError for a driver that is not known, and
    for what the driver itself refuses.
    """
    make: Callable[..., Driver] | None = _BUILT_IN.get(config.driver)
    if make is None:
        points = list(entry_points(group=DRIVER_GROUP, name=config.driver))
        if not points:
            valid = ", ".join(_BUILT_IN)
            raise ConfigurationError(f'there is no driver "{config.driver}" (valid: {valid})')
        make = points[0].load()
    return make(config, lock, timings=timings, owned=owned)


_BUILT_IN: dict[str, Callable[..., Driver]] = {"exec": ExecDriver, "process": ProcessDriver}
