"""Keys and certificates for tests, and a node whose openssl and compressors are the machine's own.

Its ``sign-file`` is a stand-in for the kernel's, which comes with kernel headers only: the same arguments, the same bytes.
"""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.run import LineSink, Result, SystemRunner

from tests.kit.node import FakeNode
from tests.kit.values import KVER

REAL = ("openssl", "gzip", "xz", "zstd")
RUN = "30 28 0:25 / /run rw,nosuid,nodev - tmpfs tmpfs rw\n"
SIGN_FILE = """\
#!/usr/bin/python3
# A stand-in for the kernel's scripts/sign-file: <hash> <key> <certificate> <module> <result>.
import os, struct, subprocess, sys
algorithm, key, certificate, module, result = sys.argv[1:]
secret = ["-passin", "env:KBUILD_SIGN_PIN"] if os.environ.get("KBUILD_SIGN_PIN") else []
cms = ["openssl", "cms", "-sign", "-binary", "-noattr", "-nocerts", "-nosmimecap", "-outform", "DER", "-md", algorithm]
done = subprocess.run([*cms, "-inkey", key, "-signer", certificate, "-in", module, *secret], stdout=subprocess.PIPE)
if done.returncode:
    sys.exit("sign-file: " + key)
info = struct.pack(">BBBBB3xI", 0, 0, 2, 0, 0, len(done.stdout))
open(result, "wb").write(open(module, "rb").read() + done.stdout + info + b"~Module signature appended~\\n")
"""


@dataclass(frozen=True)
class Pair:
    """A key and its certificate as files."""

    key: Path
    certificate: Path


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


def make_pair(folder: Path, name: str, *more: str) -> Pair:
    """A new key with a certificate for ``name``, valid for a year unless ``more`` says otherwise."""
    pair = Pair(folder / f"{name}.pem", folder / f"{name}-certificate.pem")
    days = () if "-days" in more else ("-days", "365")
    openssl(
        *("req", "-new", "-x509", "-newkey", "rsa:2048", "-noenc", "-subj", f"/O=Fleet/CN={name}", *days, *more),
        *("-keyout", str(pair.key), "-out", str(pair.certificate)),
    )
    return pair


class SigningNode(FakeNode):
    """A fake node on which modules can be signed."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.mountinfo += RUN
        self.put("proc/self/mountinfo", self.mountinfo)
        self.add_sign_file(KVER)

    def add_sign_file(self, kver: str, text: str = SIGN_FILE) -> None:
        self.put(f"usr/src/linux-headers-{kver}/scripts/sign-file", text, 0o755)
        self.put(f"usr/src/linux-headers-{kver}/.config", 'CONFIG_MODULE_SIG_HASH="sha256"\n')

    def add_pair(self, pair: Pair, folder: str = "keys") -> dict[str, str]:
        """Puts a pair onto the node; returns the options of a bake that name it."""
        options = {}
        for name, file in (("key", pair.key), ("certificate", pair.certificate)):
            path = self.root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.read_bytes())
            options[f"signing_{name}"] = f"/{folder}/{name}"
        return options

    def run(
        self,
        argv: Sequence[str],
        timeout_s: float = 60.0,
        ok: Collection[int] | None = (0,),
        env: Mapping[str, str] | None = None,
        on_line: LineSink = None,
        typed: str | None = None,
    ) -> Result:
        if argv[0] not in self.missing_programs and (argv[0] in REAL or argv[0].endswith("/sign-file")):
            self.calls.append(list(argv))
            self.environments.append(dict(env or {}))
            return SystemRunner().run(argv, timeout_s, ok, env, on_line, typed)
        return super().run(argv, timeout_s, ok, env, on_line, typed)

    def secrets(self) -> list[str]:
        """Files below /run that a bake's signing has left."""
        return [str(p.relative_to(self.root)) for p in (self.root / "run/gpu-prebake").rglob("signing*/**")]
