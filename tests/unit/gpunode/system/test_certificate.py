"""A certificate's SHA-256, computed without openssl. What openssl says of certificates is tested with the bake's signing."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system.certificate import fingerprint, fingerprint_of

PEM = Path(__file__).parents[3] / "data/tls/authority.pem"
SHA256 = "34c8438e5f34b122083ac72af6077451052afc652c3609584963ef94e3eb1eda"  # openssl x509 -noout -fingerprint -sha256


@pytest.mark.parametrize("around", ["", "subject=CN = x\n"])
def test_the_fingerprint_is_openssls_whatever_the_format(around: str) -> None:
    pem = PEM.read_text()
    assert fingerprint(PEM) == fingerprint_of((around + pem + around).encode()) == fingerprint_of(ssl.PEM_cert_to_DER_cert(pem)) == SHA256


def test_a_damaged_text_has_no_fingerprint() -> None:
    with pytest.raises(ValueError, match="base64"):
        fingerprint_of(PEM.read_bytes().replace(b"M", b"*", 20))
