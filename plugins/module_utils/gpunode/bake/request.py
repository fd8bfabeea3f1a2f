"""The options of a bake, checked and typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..container import reference
from ..container.reference import DriverWanted
from ..errors import InputError
from ..options import BAKE, BUILD
from . import signing_key
from .signing_key import SigningKey

CAPTURED, IN_PLACE = BAKE["mode"].choices


@dataclass(frozen=True)
class BakeRequest:
    """The options of one bake; times in seconds, space in MB (10⁶ bytes). ``request_from`` makes it, and validates."""

    wanted: DriverWanted
    kernels: Any = BAKE["kernels"].default
    flavour: str = BAKE["flavour"].default
    mode: str = BAKE["mode"].default
    blacklist_nouveau: bool = BAKE["blacklist_nouveau"].default
    marker_path: str = BAKE["marker_path"].default
    tries: int = BUILD["tries"].default
    delay_s: float = BUILD["delay_s"].default
    try_s: float = BUILD["try_s"].default
    min_free_mb: int = BAKE["min_free_mb"].default
    release_notes: str = BUILD["release_notes"].default
    signing: SigningKey | None = None

    @property
    def is_in_place(self) -> bool:
        """Whether the layer is activated in the image at the end of the bake."""
        return self.mode == IN_PLACE


def request_from(params: Mapping[str, Any]) -> BakeRequest:
    """Validates the options of a bake, as the role's variables set them. Raises InputError, PreflightError."""
    for name in ("mode", "flavour"):
        value, choices = params.get(name) or BAKE[name].default, BAKE[name].choices
        if value not in choices:
            raise InputError(f"nvidia_prebake_{name}: {value!r} is not one of {', '.join(choices)}")
    for name in ("marker_path", "release_notes"):
        value = params.get(name)
        if value and (not str(value).startswith("/") or ".." in str(value).split("/")):
            raise InputError(f"nvidia_prebake_{name}: {value!r} is not an absolute path")
    for name, least in (("tries", 1), ("try_s", 1), ("delay_s", 0), ("min_free_mb", 0)):
        value = params.get(name)
        if value is not None and value < least:
            raise InputError(f"nvidia_prebake_{name}: {value} is less than {least}")
    wanted = reference.wanted(params.get("image"), params.get("pull_image"), params.get("kind"), params.get("version"), "nvidia_prebake")
    defaults = BakeRequest(wanted)
    return BakeRequest(
        wanted=defaults.wanted,
        kernels=params.get("kernels") or defaults.kernels,
        flavour=params.get("flavour") or defaults.flavour,
        mode=params.get("mode") or defaults.mode,
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
