"""Certificates for tests: an authority of one's own, and a server that it vouches for. Made by the openssl program."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest


class Authority(NamedTuple):
    certificate: Path
    key: Path

    @property
    def pem(self) -> str:
        return self.certificate.read_text()


def authority(folder: Path, name: str = "authority") -> Authority:
    made = Authority(folder / f"{name}.pem", folder / f"{name}.key")
    _openssl("req", "-x509", *_new_key(made.key), "-out", made.certificate, "-days", "36500", "-subj", f"/CN={name}")
    return made


def server(folder: Path, by: Authority, *, days: int = 36_500, host: str = "localhost") -> ssl.SSLContext:
    """What a server on `host` needs, vouched for by an authority for so many days."""
    key, request, certificate, more = (folder / f"server.{end}" for end in ("key", "csr", "pem", "ext"))
    more.write_text(f"subjectAltName = DNS:{host}\n")
    _openssl("req", *_new_key(key), "-out", request, "-subj", f"/CN={host}")
    _openssl(
        *("x509", "-req", "-in", request, "-CA", by.certificate, "-CAkey", by.key, "-CAcreateserial"),
        *("-out", certificate, "-days", str(days), "-extfile", more),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def _new_key(path: Path) -> tuple[str | Path, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path)


def _openssl(*args: str | Path) -> None:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("there is no openssl program to make certificates with")
    subprocess.run([program, *args], check=True, capture_output=True)
