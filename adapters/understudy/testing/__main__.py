"""``python -m understudy.testing`` names what can be run."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    print("python -m understudy.testing.brokers runs private brokers by hand; --help tells how")
    sys.exit(0 if {"-h", "--help"} & set(sys.argv) else 2)
