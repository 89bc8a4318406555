"""A Redis that speaks TLS, and certificates for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from understudy.testing.brokers import Redis
from understudy.testing.brokers.server import Command

__all__ = ["SecureRedis", "expired"]

_AUTHORITY = """
[ca]
default_ca = own
[own]
database = index
serial = serial
new_certs_dir = .
default_md = sha256
policy = any
x509_extensions = name
[any]
commonName = supplied
[name]
subjectAltName = DNS:localhost
"""


class SecureRedis(Redis):
    """Also speaks TLS, at a port of its own. Its certificate may change from start to start."""

    def __init__(self, certificate: Path) -> None:
        """``certificate``: key and certificate in one file; the latter beside it as .crt too."""
        super().__init__()
        self.secure_port = self._claim_port()
        self.certificate = certificate

    def _prepare(self) -> Command:
        command = super()._prepare()
        crt = self.certificate.with_suffix(".crt")
        files = ["--tls-cert-file", str(crt), "--tls-key-file", str(self.certificate)]
        tls = ["--tls-port", str(self.secure_port), "--tls-auth-clients", "no"]
        return Command([*command.argv, *tls, *files, "--tls-ca-cert-file", str(crt)], command.env)


def expired(folder: Path, certificate: Path) -> Path:
    """A certificate of localhost by the authority of this one, whose time is over."""
    path = folder / "expired.pem"
    (folder / "ca.conf").write_text(_AUTHORITY)
    (folder / "index").touch()
    (folder / "serial").write_text("01\n")
    key = str(certificate)
    signing = ["-batch", "-notext", "-config", "ca.conf", "-cert", key, "-keyfile", key]
    dates = ["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"]
    files = ["-in", "request", "-out", str(path.with_suffix(".crt"))]
    _openssl(folder, "req", "-new", "-subj", "/CN=expired", "-key", key, "-out", "request")
    _openssl(folder, "ca", *signing, *dates, *files)
    path.write_text(certificate.read_text() + path.with_suffix(".crt").read_text())
    return path


def _openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)
