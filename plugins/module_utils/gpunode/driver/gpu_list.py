"""What a driver says about the GPUs that it supports, as a manifest keeps it, and what follows from it and from our own table (gpus.py).

The driver's word goes first: it names each chip that it supports, and the last branch for those that it no longer supports. Its list has
gaps, so what it does not name is judged by our table. For the kind ``grid`` the list only adds: it never refuses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..util.expressions import expression
from .gpus import GENERATIONS, Generation, number_of, of_device
from .modules import OPEN, PROPRIETARY

NONE = "none"
_GRID = "grid"
_BRANCH = expression(r"[0-9][0-9.]{0,15}(\.xx)?")
_RANGES = expression(r"([0-9a-f]{4}(-[0-9a-f]{4})?( [0-9a-f]{4}(-[0-9a-f]{4})?)*)?")


@dataclass(frozen=True)
class GpuList:
    """What a driver's list says. ``supported``, ``kernelopen`` and ``gsp_proprietary`` are device ids as compact ranges, such as
    ``1e02 1e04-1e07``; the last two are part of the first. ``legacy`` are pairs of a branch and the ids that it was the last for.
    ``source`` is the file's path, in the layer or in the driver image, or ``none``."""

    source: str = NONE
    supported: str = ""
    kernelopen: str = ""
    gsp_proprietary: str = ""
    legacy: tuple[tuple[str, str], ...] = ()

    @property
    def is_known(self) -> bool:
        return self.source != NONE

    def legacy_branch(self, number: int) -> str:
        """The last branch for a GPU that this driver no longer supports, such as 470.xx; "" for any other."""
        return next((name for name, ids in self.legacy if _has(ids, number)), "")

    def supports(self, number: int) -> bool:
        return _has(self.supported, number)


UNKNOWN = GpuList()


@dataclass(frozen=True)
class Driver:
    """Kernel modules, and what their driver says about GPUs. ``flavour`` is "" if it is unknown. Without ``list_refuses``, and for the kind
    ``grid``, the list only adds to our table."""

    kind: str
    version: str
    flavour: str = ""
    listed: GpuList = UNKNOWN
    list_refuses: bool = True

    def refusal(self, device: str) -> str | None:
        """Why its modules do not drive the GPU with this device id; "" if they do, None if neither the list nor our table knows."""
        number, generation = number_of(device), of_device(device)
        by_table = generation.refusal(self.flavour, self.version) if generation else None
        if number is None or not self.flavour:
            return by_table
        if self.listed.supports(number):
            return self._flavour_refusal(number, generation, by_table)
        return self._legacy_refusal(number) or by_table

    def unsupported(self, device: str) -> str:
        """Why no modules of this version drive the GPU with this device id; "" if some do, or if that is not known."""
        number, generation = number_of(device), of_device(device)
        if number is None or self.listed.supports(number):
            return ""
        return self._legacy_refusal(number) or (generation.unsupported(self.version) if generation else "")

    def generations(self) -> tuple[Generation, ...]:
        """The generations that its modules drive, each judged by ``example``."""
        return tuple(generation for generation in GENERATIONS if self.refusal(self.example(generation)) == "")

    def example(self, generation: Generation) -> str:
        """The device id of a GPU of that generation: one that the list has, if it has any, and if possible one that the modules drive."""
        ids = _within(self.listed.supported, generation) or [n for _last, ids in self.listed.legacy for n in _within(ids, generation)]
        devices = [f"{number:04x}" for number in ids or [generation.ids[0][0]]]
        return next((device for device in devices if self.refusal(device) == ""), devices[0])

    def beyond_table(self) -> str:
        """The device id of a GPU that its modules drive by the list, and that our table does not have; "" if there is none."""
        devices = (f"{number:04x}" for number in _numbers(self.listed.supported))
        return next((device for device in devices if not of_device(device) and self.refusal(device) == ""), "")

    @property
    def _refuses_by_list(self) -> bool:
        return self.list_refuses and self.kind != _GRID

    def _legacy_refusal(self, number: int) -> str:
        last = self.listed.legacy_branch(number) if self._refuses_by_list else ""
        return f"driver branch {last} is the last for it by the list in driver {self.version}, which no longer supports it" if last else ""

    def _flavour_refusal(self, number: int, generation: Generation | None, by_table: str | None) -> str | None:
        """The refusal of a GPU that the list has as supported."""
        is_open = _has(self.listed.kernelopen, number)
        says = f"the list of GPUs in driver {self.version} has it without"
        if self.flavour == OPEN:
            refusal = "" if is_open else f"{says} support by open kernel modules (kernelopen)"
        elif not is_open or _has(self.listed.gsp_proprietary, number):
            refusal = ""
        elif self.listed.gsp_proprietary:
            refusal = f"{says} support by proprietary kernel modules (gsp_proprietary_supported)"
        else:  # an older file, which does not say
            return "" if generation and PROPRIETARY in generation.flavours else by_table
        return refusal if self._refuses_by_list else refusal and by_table


def are_ranges(text: str) -> bool:
    """Whether a text of a document is compact ranges of device ids."""
    return bool(_RANGES.fullmatch(text))


def is_branch(text: str) -> bool:
    """Whether a text of a document can be a ``legacybranch``."""
    return bool(_BRANCH.fullmatch(text))


def _within(text: str, generation: Generation) -> list[int]:
    """The device ids in compact ranges that are of a generation."""
    return [number for number in _numbers(text) if any(low <= number <= high for low, high in generation.ids)]


def _numbers(text: str) -> Iterator[int]:
    for part in text.split():
        low, _dash, high = part.partition("-")
        yield from range(int(low, 16), int(high or low, 16) + 1)


def _has(text: str, number: int) -> bool:
    """Whether compact ranges have a device id. They are looked at as text: of some hundred, a boot asks about one or two ids."""
    wanted = f"{number:04x}"
    return any(part[:4] <= wanted <= part[-4:] for part in text.split())


def plain(listed: GpuList) -> dict[str, Any]:
    """The list as JSON values."""
    return {**vars(listed), "legacy": dict(listed.legacy)}
