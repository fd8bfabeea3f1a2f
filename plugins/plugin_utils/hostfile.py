"""From a host's name in the inventory to the name of a file of its own: the only place that does it.

The program on the controller reads this file too (src/gpu_prebake/hostfile.py is a link to it), so it imports nothing of ours.
"""

from __future__ import annotations

import hashlib
from urllib.parse import quote

_LONGEST = 200  # of the 255 bytes that a file name may have, so that a suffix fits
_DIGEST = 16


def file_name(host: str) -> str:
    """A file name for a host, without a suffix. It is the host's own name if that is one; another one for each other host.

    What leads elsewhere or is hidden (``/``, a dot at the beginning) is written as ``%`` and two digits, as in a URL.
    """
    name = quote(host, safe=":@+,=", errors="surrogateescape")
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    if not name or len(name) > _LONGEST:
        digest = hashlib.sha256(host.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGEST]
        name = f"{name[: _LONGEST - _DIGEST - 1]}%{digest}"
    return name
