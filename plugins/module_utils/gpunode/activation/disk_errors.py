"""Turns the errors of a full, read-only or broken filesystem into errors of ours, with a code for each cause."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import LayerError

_BY_ERRNO = {errno.ENOSPC: "no_space", errno.EDQUOT: "no_space", errno.EROFS: "read_only"}


@contextmanager
def disk_errors_named() -> Iterator[None]:
    """Raises LayerError in place of an OSError of the body, with the code ``no_space``, ``read_only`` or, for any other, ``os_error``."""
    try:
        yield
    except OSError as error:
        code = _BY_ERRNO.get(error.errno or 0, "os_error")
        raise LayerError(f"{error.filename or 'the system'}: {error.strerror}: look at this file and its filesystem", code=code) from error
