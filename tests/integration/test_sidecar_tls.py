"""A lock over TLS whose certificate runs out under a master."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from understudyd.testing.estate import Clients, SidecarEstate, eventually
from understudyd.testing.secure import SecureRedis, expired

pytestmark = pytest.mark.integration

LEASE = 1.0  # s; of the estate's quick timings


@pytest.mark.slow
def test_a_certificate_that_runs_out_ends_the_reign(certificate: Path, tmp_path: Path) -> None:
    """Catalogue 50: found out with the next connection; nobody is master until there is a new one,
    and the log says why."""
    old = expired(tmp_path, certificate)
    trusted = certificate.with_suffix(".crt")
    with SecureRedis(certificate) as server:
        lock = f"rediss://localhost:{server.secure_port}/0?ssl_ca_certs={trusted}"
        with SidecarEstate(lock) as estate, Clients(estate):
            master = estate.start().master()
            standby = estate.other(master)
            standby.until("/readiness")
            token = master.token
            server.certificate = old
            server.restart()
            eventually(lambda: master.said("the broker is dead"))
            time.sleep(1.5 * LEASE)
            assert [node.get("/master")[0] for node in (master, standby)] == [503, 503]
            eventually(lambda: "certificate has expired" in master.log)
            server.certificate = certificate
            server.restart()
            eventually(lambda: estate.master().token > token)
            assert estate.judge() == []
