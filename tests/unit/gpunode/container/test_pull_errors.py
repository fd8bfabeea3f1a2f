"""Why a pull failed: by what was being asked, and by the answer."""

from __future__ import annotations

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.pull_errors import Step, judge

REFERENCE = "mcr.example/aks/aks-gpu-cuda:580.126.09-20260430040408"
RESOLVE = f'failed to resolve reference "{REFERENCE}": '
BLOB = f"https://mcr.example/v2/aks/aks-gpu-cuda/blobs/sha256:{'0' * 64}"
MANIFEST = f"https://mcr.example/v2/aks/aks-gpu-cuda/manifests/sha256:{'4' * 64}"
COPY = "failed to copy: httpReadSeeker: failed open: "
TOKEN = RESOLVE + "failed to authorize: failed to fetch anonymous token: "
ASKED = 'Get "https://mcr.example/oauth2/token?scope=repository%3Aaks%2Faks-gpu-cuda%3Apull&service=mcr.example": '
HEAD = RESOLVE + 'failed to do request: Head "https://mcr.example/v2/aks/aks-gpu-cuda/manifests/580": '
EXTRACT = f"failed to extract layer sha256:{'5' * 64}: "


@pytest.mark.parametrize(
    ("reason", "step", "status", "code", "may_pass"),
    [
        # resolving the name
        pytest.param(f"{RESOLVE}{REFERENCE}: not found", Step.RESOLVE, 0, "image_refused", False, id="no such tag"),
        pytest.param(
            RESOLVE + "pulling from host mcr.example failed with status code [manifests 580]: 401 Unauthorized",
            Step.RESOLVE,
            401,
            "registry_login",
            False,
            id="no login, containerd 1.6",
        ),
        pytest.param(
            RESOLVE + "unexpected status from HEAD request to https://mcr.example/v2/x/manifests/1: 403 Forbidden",
            Step.RESOLVE,
            403,
            "image_refused",
            False,
            id="no permission, containerd 1.7",
        ),
        pytest.param(
            RESOLVE + "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope",
            Step.RESOLVE,
            0,
            "image_refused",
            False,
            id="denied",
        ),
        pytest.param(
            RESOLVE + "unexpected status from HEAD request to https://x/v2/: 429 Too Many Requests",
            Step.RESOLVE,
            429,
            "image_unreachable",
            True,
            id="too many requests",
        ),
        pytest.param(HEAD + "dial tcp: lookup mcr.example: no such host", Step.RESOLVE, 0, "image_unreachable", True, id="no such host"),
        pytest.param(
            HEAD + "dial tcp 10.0.0.1:443: connect: network is unreachable", Step.RESOLVE, 0, "image_unreachable", True, id="unreachable"
        ),
        pytest.param(HEAD + "dial tcp 10.0.0.1:401: connect: no route to host", Step.RESOLVE, 0, "image_unreachable", True, id="no route"),
        pytest.param(HEAD + "net/http: TLS handshake timeout", Step.RESOLVE, 0, "image_unreachable", True, id="handshake"),
        pytest.param(
            HEAD + "x509: certificate has expired or is not yet valid", Step.RESOLVE, 0, "registry_certificate", False, id="certificate"
        ),
        # a proxy on the way
        pytest.param(HEAD + "Forbidden", Step.RESOLVE, 0, "registry_proxy", False, id="proxy forbids"),
        pytest.param(HEAD + "Proxy Authentication Required", Step.RESOLVE, 0, "registry_proxy", False, id="proxy wants a login"),
        pytest.param(HEAD + "Bad Gateway", Step.RESOLVE, 0, "image_unreachable", True, id="proxy finds nobody"),
        pytest.param(TOKEN + ASKED + "Forbidden", Step.TOKEN, 0, "registry_proxy", False, id="proxy forbids the token server"),
        pytest.param(
            COPY + f'failed to do request: Get "{BLOB}": Forbidden', Step.BLOB, 0, "registry_proxy", False, id="proxy forbids the storage"
        ),
        pytest.param(
            HEAD + "proxyconnect tcp: dial tcp 10.0.0.9:3128: connect: connection refused",
            Step.RESOLVE,
            0,
            "image_unreachable",
            True,
            id="proxy is down",
        ),
        # the token
        pytest.param(
            TOKEN + ASKED + "dial tcp 10.0.0.1:443: connect: network is unreachable",
            Step.TOKEN,
            0,
            "image_unreachable",
            True,
            id="token server unreachable",
        ),
        pytest.param(TOKEN + ASKED + "EOF", Step.TOKEN, 0, "image_unreachable", True, id="token server hangs up"),
        pytest.param(
            TOKEN + ASKED + "dial tcp: lookup mcr.example: no such host",
            Step.TOKEN,
            0,
            "image_unreachable",
            True,
            id="token server unknown",
        ),
        pytest.param(
            TOKEN + ASKED + "dial tcp 10.0.0.1:443: connect: no route to host",
            Step.TOKEN,
            0,
            "image_unreachable",
            True,
            id="no route to the token server",
        ),
        pytest.param(
            TOKEN + "unexpected status: 503 Service Unavailable", Step.TOKEN, 503, "image_unreachable", True, id="token server busy"
        ),
        pytest.param(TOKEN + "unexpected status: 401 Unauthorized", Step.TOKEN, 401, "registry_login", False, id="no token without login"),
        pytest.param(
            RESOLVE
            + "failed to authorize: failed to fetch oauth token: unexpected status from POST request to https://x/token: 400 Bad Request",
            Step.TOKEN,
            400,
            "registry_login",
            False,
            id="a login that the token server does not read",
        ),
        pytest.param(
            RESOLVE + "failed to authorize: authorization failed: no basic auth credentials",
            Step.TOKEN,
            0,
            "registry_login",
            False,
            id="no login for basic",
        ),
        # the manifest and the layers, after the name was resolved
        pytest.param(
            COPY + f"unexpected status code {BLOB}: 401 Unauthorized", Step.BLOB, 401, "image_unreachable", True, id="the token ran out"
        ),
        pytest.param(
            COPY + f"unexpected status code {BLOB}: 401 Unauthorized - Server message: unauthorized: authentication required",
            Step.BLOB,
            401,
            "image_unreachable",
            True,
            id="the token ran out, with a message",
        ),
        pytest.param(
            COPY + f"unexpected status code {BLOB}: 403 Forbidden", Step.BLOB, 403, "image_unreachable", True, id="the address ran out"
        ),
        pytest.param(
            COPY + "failed to authorize: failed to fetch oauth token: unexpected status: 401 Unauthorized",
            Step.TOKEN,
            401,
            "registry_login",
            False,
            id="the login was withdrawn",
        ),
        pytest.param(
            COPY + f"unexpected status code {MANIFEST}: 401 Unauthorized", Step.MANIFEST, 401, "image_unreachable", True, id="manifest"
        ),
        pytest.param(COPY + f"content at {MANIFEST} not found: not found", Step.MANIFEST, 0, "image_unreachable", True, id="no manifest"),
        pytest.param(
            COPY + "could not fetch content descriptor sha256:0 (application/x) from remote: not found",
            Step.BLOB,
            0,
            "image_unreachable",
            True,
            id="no layer",
        ),
        pytest.param(
            "failed to copy: read tcp 10.0.0.2:1->10.0.0.1:443: read: connection reset by peer",
            Step.BLOB,
            0,
            "image_unreachable",
            True,
            id="reset",
        ),
        pytest.param("failed to copy: unexpected EOF", Step.BLOB, 0, "image_unreachable", True, id="cut off"),
        # this machine
        pytest.param(EXTRACT + "mount callback failed: open /x: permission denied", Step.UNPACK, 0, "image_unpack", False, id="unpack"),
        pytest.param(EXTRACT + "archive/tar: invalid tar header: unknown", Step.UNPACK, 0, "image", False, id="unpack, damaged"),
        pytest.param(EXTRACT + "write /x: no space left on device: unknown", Step.UNPACK, 0, "no_space", False, id="unpack, full"),
        pytest.param(EXTRACT + "context deadline exceeded: unknown", Step.UNPACK, 0, "image_unreachable", True, id="unpack, too slow"),
        pytest.param(
            'failed to prepare extraction snapshot "extract-1": read-only file system',
            Step.UNPACK,
            0,
            "image_unpack",
            False,
            id="read-only",
        ),
        pytest.param(
            "mkdir /var/lib/containerd/x: permission denied", Step.MACHINE, 0, "image_unpack", False, id="a folder of this machine"
        ),
        pytest.param(
            'failed to dial "/run/containerd/containerd.sock": connection refused',
            Step.MACHINE,
            0,
            "containerd_unavailable",
            True,
            id="containerd is away",
        ),
        # names that look like answers
        pytest.param(
            'failed to resolve reference "forbidden.example/unauthorized:1": failed to do request: Head '
            '"https://forbidden.example/v2/unauthorized/manifests/1": dial tcp 10.4.0.1:403: i/o timeout',
            Step.RESOLVE,
            0,
            "image_unreachable",
            True,
            id="names",
        ),
        pytest.param("something new", Step.RESOLVE, 0, "image_unreachable", True, id="unknown"),
        pytest.param("", Step.RESOLVE, 0, "image_unreachable", True, id="nothing"),
    ],
)
def test_a_failure_is_judged_by_what_was_asked(reason: str, step: Step, status: int, code: str, may_pass: bool) -> None:
    found = judge(reason, REFERENCE)
    assert (found.step, found.status, found.code, found.may_pass) == (step, status, code, may_pass)


def test_the_references_own_words_do_not_count() -> None:
    reference = "registry.example/denied: /x:EOF"
    assert judge(f"failed to resolve reference: {reference}: not found", reference).code == "image_refused"
