"""What a seal is asked to check: its options, validated and typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..container import reference
from ..container.reference import DriverWanted
from ..driver.gpus import NAMES
from ..errors import InputError
from ..options import SEAL
from ..system.kernels import choices

REPORTED, FAIL = "report", "fail"
IN_PLACE = SEAL["mode"].choices[1]


@dataclass(frozen=True)
class SealRequest:
    """``kernels`` as ``kernels.choices`` returns them; ``uncovered`` is what to do about any other bootable kernel without a layer;
    ``generations`` are the GPUs that the image is meant for, empty for all that a layer supports; ``must_be_baked`` refuses an image
    without a layer, which is otherwise not checked; ``blacklist_nouveau`` is the choice of the bake. ``wanted``, ``flavour``, ``mode``,
    ``signed`` and ``signer`` are what each layer must be; ``certificate`` is a file on this machine with the signer's certificate. If
    ``wanted`` is None, none of these is compared."""

    kernels: tuple[str, ...] = (SEAL["kernels"].default,)
    uncovered: str = SEAL["uncovered"].default
    generations: tuple[str, ...] = SEAL["gpu_generations"].default
    marker_path: str = SEAL["marker_path"].default
    min_free_mb: int = SEAL["min_free_mb"].default
    must_be_baked: bool = SEAL["baked"].default
    blacklist_nouveau: bool = SEAL["blacklist_nouveau"].default
    wanted: DriverWanted | None = None
    flavour: str = SEAL["flavour"].default
    mode: str = SEAL["mode"].default
    signed: bool = SEAL["signed"].default
    certificate: str = SEAL["signing_certificate"].default
    signer: str = SEAL["signer"].default


def request_from(params: Mapping[str, Any]) -> SealRequest:
    """Validates the options of a seal. Raises InputError."""
    uncovered = params.get("uncovered") or SealRequest.uncovered
    if uncovered not in (REPORTED, FAIL):
        raise InputError(f"nvidia_prebake_uncovered: {uncovered!r} is neither {REPORTED} nor {FAIL}")
    asked = tuple(params.get("gpu_generations") or ())
    unknown = [name for name in asked if name not in NAMES]
    if unknown:
        raise InputError(f"nvidia_prebake_gpu_generations: {', '.join(unknown)} unknown; known are {', '.join(NAMES)}")
    must_be_baked = params.get("baked") is not False
    return SealRequest(
        kernels=choices(params.get("kernels") or SEAL["kernels"].default),
        uncovered=uncovered,
        generations=asked,
        marker_path=params.get("marker_path") or SealRequest.marker_path,
        min_free_mb=SealRequest.min_free_mb if params.get("min_free_mb") is None else int(params["min_free_mb"]),
        must_be_baked=must_be_baked,
        blacklist_nouveau=params.get("blacklist_nouveau") is not False,
        wanted=_wanted(params) if must_be_baked or params.get("image") else None,
        flavour=_choice(params, "flavour"),
        mode=_choice(params, "mode"),
        signed=bool(params.get("signed")),
        certificate=params.get("signing_certificate") or "",
        signer=(params.get("signer") or "").lower(),
    )


def _wanted(params: Mapping[str, Any]) -> DriverWanted:
    return reference.wanted(params.get("image"), params.get("pull_image"), params.get("kind"), params.get("version"), "nvidia_prebake")


def _choice(params: Mapping[str, Any], name: str) -> str:
    value: str = params.get(name) or SEAL[name].default
    if value not in SEAL[name].choices:
        raise InputError(f"nvidia_prebake_{name}: {value!r} is not one of {', '.join(SEAL[name].choices)}")
    return value
