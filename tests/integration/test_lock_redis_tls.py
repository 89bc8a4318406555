"""The Redis lock over TLS: verified by default."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from understudy.testing.brokers import Redis
from understudy.testing.brokers.server import Command
from understudyd.lock.open import open_backend
from understudyd.lock.port import Unavailable

pytestmark = pytest.mark.integration

TIMEOUT = 5.0  # s, of one attempt


class SecureRedis(Redis):
    """Also speaks TLS, at a port of its own."""

    def __init__(self, certificate: Path) -> None:
        super().__init__()
        self.secure_port = self._claim_port()
        self._certificate = certificate

    def _prepare(self) -> Command:
        command = super()._prepare()
        crt = self._certificate.with_suffix(".crt")
        files = ["--tls-cert-file", str(crt), "--tls-key-file", str(self._certificate)]
        tls = ["--tls-port", str(self.secure_port), "--tls-auth-clients", "no"]
        return Command([*command.argv, *tls, *files, "--tls-ca-cert-file", str(crt)], command.env)


@pytest.fixture
def server(certificate: Path) -> Iterator[SecureRedis]:
    with SecureRedis(certificate) as server:
        yield server


def test_with_the_right_authority_and_name(server: SecureRedis, certificate: Path) -> None:
    crt = certificate.with_suffix(".crt")
    uri = f"rediss://localhost:{server.secure_port}/0?ssl_ca_certs={crt}"
    backend = open_backend(uri, "g", TIMEOUT)
    assert backend.read().incarnation
    backend.close()


@pytest.mark.parametrize("fault", ["authority", "name", "no TLS"])
def test_anything_else_is_unavailable(fault: str, server: SecureRedis, certificate: Path) -> None:
    """Catalogue 50."""
    trusted = f"?ssl_ca_certs={certificate.with_suffix('.crt')}"
    uri = {
        "authority": f"rediss://localhost:{server.secure_port}/0",
        "name": f"rediss://127.0.0.1:{server.secure_port}/0{trusted}",
        "no TLS": f"rediss://localhost:{server.port}/0{trusted}",
    }[fault]
    backend = open_backend(uri, "g", TIMEOUT)
    with pytest.raises(Unavailable):
        backend.read()
    backend.close()
