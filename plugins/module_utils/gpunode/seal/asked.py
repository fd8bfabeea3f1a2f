"""Checks that the layers are what the variables ask for: an image that was baked before the last change of a variable must not ship."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from ..container.reference import DriverWanted
from ..store.manifest import Manifest
from ..system import certificate
from .report import Report
from .request import IN_PLACE, SealRequest


def check_asked(request: SealRequest, layers: Sequence[Manifest], live: Collection[str], report: Report) -> None:
    """Refuses each layer that is not exactly what is asked for. ``live`` are the names of the layers that are meant to be live."""
    if request.wanted is None:
        return
    signer = request.signer or _signer_on_machine(request.certificate, report)
    for layer in layers:
        found = (*_differences(request, request.wanted, layer, live), *_signer_differs(signer, layer))
        differing = [f"{was}, and {variable} is {asked}" for was, variable, asked in found]
        if differing:
            report.refuse("asked", [f"layer {layer.layer}: {'; '.join(differing)}: bake again with these variables, or correct them"])


def _differences(request: SealRequest, wanted: DriverWanted, layer: Manifest, live: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """What the layer is, in words, and the variable and value that ask for something else."""
    identity, is_live = layer.identity, layer.layer in live
    if layer.image != wanted.image.text:
        yield f"it was baked from {layer.image}", "nvidia_prebake_image", wanted.image.text
    if identity.version != wanted.version:
        yield f"its driver version is {identity.version}", "nvidia_prebake_driver_version, or that in the image's name,", wanted.version
    if identity.kind != wanted.kind:
        yield f"its driver kind is {identity.kind}", "nvidia_prebake_driver_kind, or that in the image's name,", wanted.kind
    if request.flavour not in ("any", identity.flavour):
        yield f"its modules are {identity.flavour}", "nvidia_prebake_flavour", request.flavour
    if is_live is not (request.mode == IN_PLACE):
        yield f"it is {'live in the image' if is_live else 'inert'}", "nvidia_prebake_mode", request.mode
    if request.signed and layer.signer is None:
        yield "its modules are not signed", "nvidia_prebake_signing_key", "given"


def _signer_on_machine(path: str, report: Report) -> str:
    """SHA-256 of the certificate in a file of this machine; "" if there is none to compare with, which the report then says."""
    try:
        return certificate.fingerprint(Path(path)) if path else ""
    except (OSError, ValueError) as error:
        report.notes.append(f"which key signed the modules was not compared, because the certificate {path} cannot be read here ({error})")
        return ""


def _signer_differs(signer: str, layer: Manifest) -> Iterator[tuple[str, str, str]]:
    if signer and layer.signer and layer.signer.fingerprint != signer:
        was = f"its modules are signed by {layer.signer.name}, certificate {layer.signer.fingerprint[:16]}…"
        yield was, "nvidia_prebake_signing_certificate", f"another one, {signer[:16]}…"
