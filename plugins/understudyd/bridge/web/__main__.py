"""``python -m understudyd.bridge.web PAGE CHANNEL CONTROL``: the API process of bridges.

The first two are inherited descriptors (the shared page, a socket to the bridges), the third is the
process id of who runs them. It has no more right to the processor than that one.
"""

from __future__ import annotations

import signal
import socket
import sys

from understudyd.api.page import Sheet
from understudyd.api.server import serve
from understudyd.bridge.web.site import BridgeSite


def main() -> int:
    page, channel, control = map(int, sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all: the bridges decide
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # so does systemd
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return serve(BridgeSite(Sheet(page)), socket.socket(fileno=channel), control)


if __name__ == "__main__":
    sys.exit(main())
