"""The phases of a tenure; what leads from one to the next is the table of `tenure`. Pure.

==============  ===============================================================================
phase           means
==============  ===============================================================================
STANDBY         without the lock
PREPARING       the lock is ours; hooks and stamp
STARTING        the broker was told to start and has not been healthy yet
MASTER          the broker was healthy
STOPPING        it is to stop cleanly
FENCING         it is being killed
STUCK           it can't be killed, or is not heard to be dead long after it should be
RELEASING       it is dead; the tombstone is being written
==============  ===============================================================================
"""

from __future__ import annotations

from enum import Enum

from understudyd.status import FENCING_FAILED

__all__ = ["BOUNDED", "LIVING", "Phase"]


class Phase(Enum):
    STANDBY = "standby"
    PREPARING = "preparing"
    STARTING = "starting"
    MASTER = "master"
    STOPPING = "stopping"
    FENCING = "fencing"
    STUCK = FENCING_FAILED
    RELEASING = "releasing"


# they last so long at the most, and then something else is done
BOUNDED = (Phase.PREPARING, Phase.STARTING, Phase.STOPPING, Phase.FENCING)
# a broker of ours may live
LIVING = (Phase.STARTING, Phase.MASTER, Phase.STOPPING, Phase.FENCING, Phase.STUCK)
