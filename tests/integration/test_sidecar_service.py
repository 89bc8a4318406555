"""The sidecar as a service: systemd, its log, process 1 of a container."""

from __future__ import annotations

import os
import signal
import socket
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from understudyd.systemd import notify
from understudyd.testing.estate import SidecarEstate, eventually
from understudyd.testing.estate import children as children_of

pytestmark = pytest.mark.integration


def test_systemd_is_told_of_a_reload_and_that_the_sidecar_lives(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.settimeout(60)
        with SidecarEstate(names="a") as estate:
            estate.environment["NOTIFY_SOCKET"] = str(tmp_path / "notify")
            estate.environment["WATCHDOG_USEC"] = "10000000"
            node = estate["a"].start()
            while server.recv(100) != b"WATCHDOG=1":
                pass
            for change in ("", "[nonsense]"):  # a reload that is refused ends, too
                estate.file.write_text(f"{estate.file.read_text()}\n{change}")
                before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
                node.signal(signal.SIGHUP)
                told = [server.recv(100)]
                while told[-1] != b"READY=1":
                    told.append(server.recv(100))
                (reloading,) = (text for text in told if text.startswith(b"RELOADING=1\n"))
                assert int(reloading.partition(b"MONOTONIC_USEC=")[2]) >= before


def test_the_log_says_when_and_in_which_zone() -> None:
    with SidecarEstate(names="a") as estate:
        estate.environment["TZ"] = "XST-5:30"
        node = estate["a"].start()
        eventually(lambda: node.said("started"))
        moment = datetime.fromisoformat(node.log.split()[0])
        assert moment.utcoffset() == timedelta(hours=5, minutes=30)


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.settimeout(60)
        notify("READY=1")  # nobody asked
        with SidecarEstate() as estate:
            estate.environment["NOTIFY_SOCKET"] = str(tmp_path / "notify")
            node = estate["a"].start()
            assert server.recv(100) == b"READY=1"
            assert node.stop() == 0
            assert server.recv(100) == b"STOPPING=1"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a PID namespace")
def test_process_1_reaps_and_hands_signals_on() -> None:
    """Catalogue 105: without an init, as in a container."""
    with SidecarEstate(witness_options=["--helper"]) as estate:
        node = estate["a"]
        node.prefix = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
        node.start()
        eventually(lambda: node.is_master)
        (init,) = children_of(node.pid)
        assert len(children_of(init)) >= 1
        broker = node.broker
        assert broker is not None
        os.kill(init, 15)
        assert node.process is not None
        assert node.process.wait(60) == 0
        assert "ended with exit code 0" in node.log
