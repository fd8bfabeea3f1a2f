"""Registries like those of companies, with the plain registry's images: TLS with a certificate authority of their own, and a login.

One asks for the login itself (basic), the other sends clients to a token server (bearer). All secrets are made for one session only.
"""

from __future__ import annotations

import http.client
import json
import secrets
import ssl
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lab.driverimages import registry
from lab.machine import host, paths
from lab.machine.errors import LabError
from lab.nodes import record
from lab.nodes.base import REGISTRY_ADDRESS, REGISTRY_NAME

BASIC_PORT, TOKEN_PORT, TOKEN_SERVER_PORT = 5443, 5444, 5445
HOST = REGISTRY_NAME.partition(":")[0]
SERVICE, ISSUER = "the lab's registry", "the lab's token server"
USERNAME = "puller"

# Format: docker-registry's (distribution 2.8) configuration.
CONFIG = """\
version: 0.1
log:
  level: warn
storage:
  filesystem:
    rootdirectory: {storage}
  maintenance:
    readonly:
      enabled: true
http:
  addr: {address}:{port}
  tls:
    certificate: {folder}/registry.pem
    key: {folder}/registry.key
auth:
"""
BASIC = """\
  htpasswd:
    realm: {service}
    path: {folder}/htpasswd
"""
TOKEN = """\
  token:
    realm: https://{host}:{token_server_port}/token
    service: {service}
    issuer: {issuer}
    rootcertbundle: {folder}/ca.pem
"""


@dataclass(frozen=True)
class SecureRegistry:
    """One of them: its name on nodes, the login, and the certificate of its authority."""

    name: str
    password: str
    ca: Path
    username: str = USERNAME

    def reference(self, plain: str) -> str:
        """The reference in this registry of an image that was pushed to the plain one."""
        return plain.replace(REGISTRY_NAME, self.name, 1)


def ensure() -> tuple[SecureRegistry, SecureRegistry]:
    """The registry that asks for the login, and the one with a token server. They are started on first use, and run until the session
    ends."""
    registry.ensure()
    with record.lock() as run_folder:
        folder = run_folder / "secure-registry"
        if not folder.exists():
            fresh = paths.make_private(run_folder / "secure-registry.new")
            _make_secrets(fresh)
            fresh.rename(folder)
        _start(folder)
    passwords = json.loads((folder / "passwords.json").read_text())
    ports = {"basic": BASIC_PORT, "token": TOKEN_PORT}
    basic, token = (SecureRegistry(f"{HOST}:{ports[kind]}", passwords[kind], folder / "ca.pem") for kind in ports)
    return basic, token


def _make_secrets(folder: Path) -> None:
    host.need_tools("openssl", "htpasswd")
    # The first has characters that a shell, a terminal or TOML could misread (bcrypt takes 72 bytes). The other is as long as a
    # cloud's token.
    passwords = {"basic": f"p'a\"s $w\\{secrets.token_hex(8)} ü#%", "token": secrets.token_urlsafe(1800)}
    (folder / "passwords.json").write_text(json.dumps(passwords))
    hashed = host.run(["htpasswd", "-niB", USERNAME], stdin=passwords["basic"], timeout_s=60).stdout
    (folder / "htpasswd").write_text(hashed)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _openssl(folder, ["req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=the lab's authority", "-days", "30"])
    (folder / "names").write_text(f"subjectAltName=DNS:{HOST},IP:{REGISTRY_ADDRESS}\n")
    for name in ("registry", "token"):
        # The registry assumes RSA signatures, so the token server's key is an RSA key.
        kind = key if name == "registry" else ["-newkey", "rsa:2048", "-nodes"]
        _openssl(folder, ["req", *kind, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"])
        issue = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30", "-extfile", "names"]
        _openssl(folder, ["x509", "-req", "-in", f"{name}.csr", *issue, "-out", f"{name}.pem"])


def _openssl(folder: Path, argv: list[str]) -> None:
    host.run(["env", "-C", str(folder), "openssl", *argv], timeout_s=60)


def _start(folder: Path) -> None:
    names = {
        "folder": folder,
        "storage": registry.storage(),
        "address": REGISTRY_ADDRESS,
        "host": HOST,
        "service": SERVICE,
        "issuer": ISSUER,
        "token_server_port": TOKEN_SERVER_PORT,
    }
    logs = paths.logs(record.session())
    for kind, port, auth in (("basic", BASIC_PORT, BASIC), ("token", TOKEN_PORT, TOKEN)):
        config = folder / f"{kind}.yml"
        config.write_text((CONFIG + auth).format(port=port, **names))
        _run(["docker-registry", "serve", str(config)], port, logs / f"registry-{kind}.log", folder)
    _run([sys.executable, "-m", "lab.driverimages.tokenserver", str(folder)], TOKEN_SERVER_PORT, logs / "registry-token-server.log", folder)


def _run(argv: list[str], port: int, log: Path, folder: Path) -> None:
    """Start a server, unless one answers on its port, and wait until it answers."""
    if _answers(port, folder):
        return
    pid = host.spawn(argv, log)
    end = time.monotonic() + registry.START_TIMEOUT_S
    while not _answers(port, folder):
        if not host.is_alive(pid) or time.monotonic() > end:
            raise LabError(f"{argv[0]} did not start on port {port}; the end of {log}:\n{host.read_tail(log)}")
        time.sleep(0.05)


def _answers(port: int, folder: Path) -> bool:
    """Whether a server answers on this port and asks for a login."""
    trust = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    connection = http.client.HTTPSConnection(REGISTRY_ADDRESS, port, timeout=10, context=trust)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status == 401
    except OSError:
        return False
    finally:
        connection.close()
