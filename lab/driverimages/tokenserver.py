"""The token server of a registry: `python -m lab.driverimages.tokenserver FOLDER` issues tokens to clients that know the password.

Protocols: the registry's token authentication (GET with basic) and its OAuth2 form (POST); tokens are JSON web tokens (RFC 7519),
signed RS256 with the certificate in `x5c`.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import ssl
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from lab.driverimages.secureregistry import ISSUER, SERVICE, TOKEN_SERVER_PORT, USERNAME
from lab.nodes.base import REGISTRY_ADDRESS

VALID_S = 300


class Handler(BaseHTTPRequestHandler):
    """Answers one request; `folder` holds the server's key and the password."""

    folder: Path

    def do_GET(self) -> None:
        """Login by basic authentication."""
        asked = parse_qs(urlsplit(self.path).query)
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        login = base64.b64decode(value).decode() if kind == "Basic" else ""
        self._answer(login, asked, "token")

    def do_POST(self) -> None:
        """Login by a form."""
        asked = parse_qs(self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode())
        login = f"{asked.get('username', [''])[0]}:{asked.get('password', [''])[0]}"
        self._answer(login, asked, "access_token")

    def _answer(self, login: str, asked: dict[str, list[str]], field: str) -> None:
        password = json.loads((self.folder / "passwords.json").read_text())["token"]
        if login != f"{USERNAME}:{password}":
            return self._send(401, {"errors": [{"code": "UNAUTHORIZED", "message": "no such login"}]})
        scopes = " ".join(asked.get("scope", [])).split()
        access = [scope(text) for text in scopes]
        return self._send(200, {field: token(self.folder, access), "expires_in": VALID_S})

    def _send(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def scope(text: str) -> dict[str, Any]:
    """The claim of a token for `repository:NAME:pull,push`; only pull is granted."""
    kind, name, actions = re.fullmatch(r"([^:]+):(.+):([^:]*)", text).groups()  # type: ignore[union-attr]
    return {"type": kind, "name": name, "actions": [action for action in actions.split(",") if action == "pull"]}


def token(folder: Path, access: list[dict[str, Any]]) -> str:
    """A token that the registry accepts for VALID_S seconds."""
    certificate = "".join((folder / "token.pem").read_text().splitlines()[1:-1])
    now = int(time.time())
    times = {"iat": now, "nbf": now - 60, "exp": now + VALID_S}
    claims = {"iss": ISSUER, "aud": SERVICE, "sub": USERNAME, "jti": secrets.token_hex(8), "access": access, **times}
    signed = f"{_encoded({'typ': 'JWT', 'alg': 'RS256', 'x5c': [certificate]})}.{_encoded(claims)}"
    argv = ["openssl", "dgst", "-sha256", "-sign", str(folder / "token.key")]
    signature = subprocess.run(argv, input=signed.encode(), stdout=subprocess.PIPE, check=True, timeout=60).stdout
    return f"{signed}.{_base64(signature)}"


def _encoded(document: dict[str, Any]) -> str:
    return _base64(json.dumps(document).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def main() -> None:
    """Serve until killed."""
    Handler.folder = Path(sys.argv[1])
    server = ThreadingHTTPServer((REGISTRY_ADDRESS, TOKEN_SERVER_PORT), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Handler.folder / "registry.pem", Handler.folder / "registry.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
