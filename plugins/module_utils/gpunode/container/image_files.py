"""Files of a driver image that a bake reads, printed by a plain container. The image needs bash and coreutils, as its scripts do."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence

from ..errors import CommandError
from .containerd import Containerd

_CONTAINER = "gpuask"
_RUN_S = 180.0  # to start a container and run it on a busy machine
_MOST = 4  # files
# Prints each file of these names as two lines: its path, and its first bytes in base64.
_SCRIPT = """
shopt -s globstar nullglob
most=$1 limit=$2
shift 2
for name; do
  for file in /opt/gpu/**/"$name" /usr/share/doc/**/"$name" /usr/share/nvidia*/**/"$name"; do
    [ -f "$file" ] && [ $((most--)) -gt 0 ] || continue
    printf '%s\\n' "$file"
    head -c "$limit" "$file" | base64 -w 0
    echo
  done
done
"""


def found(containerd: Containerd, reference: str, names: Sequence[str], limit: int) -> tuple[tuple[str, bytes], ...]:
    """The path and the first ``limit`` bytes of up to four files of these names, from where a driver and its documentation are. Raises
    CommandError, ValueError."""
    argv = [*containerd.ctr, "run", "--rm", reference, _CONTAINER, "bash", "-c", _SCRIPT, "bash", str(_MOST), str(limit), *names]
    try:
        return parse(containerd.runner.run(argv, timeout_s=_RUN_S).stdout)
    except CommandError:
        containerd.kill(_CONTAINER)
        raise


def parse(text: str) -> tuple[tuple[str, bytes], ...]:
    """Parses what the script prints. Raises ValueError."""
    lines = text.split("\n")
    pairs = itertools.zip_longest(lines[0:-1:2], lines[1:-1:2])
    return tuple((path, base64.b64decode(data or "", validate=True)) for path, data in pairs)
