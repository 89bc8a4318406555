"""``python -m understudyd.api PAGE CHANNEL CONTROL``: the API process; the sidecar starts it.

The first two are inherited descriptors (the shared page, a socket to the sidecar), the third is the
sidecar's process id.
"""

from __future__ import annotations

import signal
import socket
import sys

from understudyd.api.page import Page
from understudyd.api.server import serve
from understudyd.api.site import SidecarSite
from understudyd.guard.system import go_first

# It needs the processor seldom and shortly, but at once.
NICENESS = -10
TURN = 0.0001  # s


def main() -> int:
    page, channel, control = map(int, sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all: the sidecar decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # so does systemd
    go_first(NICENESS, TURN)
    return serve(SidecarSite(Page(page)), socket.socket(fileno=channel), control)


if __name__ == "__main__":
    sys.exit(main())
