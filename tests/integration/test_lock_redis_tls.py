"""The Redis lock over TLS: verified by default."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from understudyd.lock.open import open_backend
from understudyd.lock.port import Unavailable
from understudyd.testing.secure import SecureRedis

pytestmark = pytest.mark.integration

TIMEOUT = 5.0  # s, of one attempt


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
