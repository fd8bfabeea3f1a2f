"""The options of a bake, checked and typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..container import marker, reference
from ..container.reference import DriverWanted
from ..errors import InputError
from ..paths import STORE
from ..store import manifest
from ..system.kernels import NEWEST
from . import signing_key
from .signing_key import SigningKey

MODES = (manifest.CAPTURED, manifest.IN_PLACE)
FLAVOURS = ("any", "open", "proprietary")
# A full driver: image 0.5 GB unpacked and 0.25 GB packed, its copy in /opt/gpu 0.3 GB, build folder up to 0.8 GB, result 0.3 GB.
MIN_FREE_MB = 3072


@dataclass(frozen=True)
class BakeRequest:
    """The options of one bake; times in seconds, space in MB (10⁶ bytes). ``request_from`` makes it, and validates."""

    wanted: DriverWanted
    kernels: Any = NEWEST
    flavour: str = "any"
    mode: str = manifest.CAPTURED
    blacklist_nouveau: bool = True
    marker_path: str = marker.DEFAULT_PATH
    tries: int = 3
    delay_s: float = 10.0
    try_s: float = 600.0
    min_free_mb: int = MIN_FREE_MB
    release_notes: str = f"/{STORE}/release-notes.txt"
    signing: SigningKey | None = None


def request_from(params: Mapping[str, Any]) -> BakeRequest:
    """Validates the options of a bake, as the role's variables set them. Raises InputError, PreflightError."""
    mode = params.get("mode") or manifest.CAPTURED
    if mode not in MODES:
        raise InputError(f"nvidia_prebake_mode: {mode!r} is not one of {', '.join(MODES)}")
    flavour = params.get("flavour") or "any"
    if flavour not in FLAVOURS:
        raise InputError(f"nvidia_prebake_flavour: {flavour!r} is not one of {', '.join(FLAVOURS)}")
    for name in ("marker_path", "release_notes"):
        value = params.get(name)
        if value and (not str(value).startswith("/") or ".." in str(value).split("/")):
            raise InputError(f"nvidia_prebake_{name}: {value!r} is not an absolute path")
    for name, least in (("tries", 1), ("try_s", 1), ("delay_s", 0), ("min_free_mb", 0)):
        value = params.get(name)
        if value is not None and value < least:
            raise InputError(f"nvidia_prebake_{name}: {value} is less than {least}")
    defaults = BakeRequest(reference.wanted(params.get("image"), params.get("pull_image"), params.get("kind"), params.get("version")))
    return BakeRequest(
        wanted=defaults.wanted,
        kernels=params.get("kernels") or NEWEST,
        flavour=flavour,
        mode=mode,
        blacklist_nouveau=bool(_or(params.get("blacklist_nouveau"), defaults.blacklist_nouveau)),
        marker_path=params.get("marker_path") or defaults.marker_path,
        tries=int(params.get("tries") or defaults.tries),
        delay_s=float(_or(params.get("delay_s"), defaults.delay_s)),
        try_s=float(params.get("try_s") or defaults.try_s),
        min_free_mb=int(_or(params.get("min_free_mb"), defaults.min_free_mb)),
        release_notes=params.get("release_notes") or defaults.release_notes,
        signing=signing_key.request_from(params),
    )


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
