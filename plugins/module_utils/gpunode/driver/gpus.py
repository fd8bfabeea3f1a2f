"""Which kernel modules drive which GPU: generations by PCI device id, with the flavours and driver branches that support them.

Sources: the list of supported chips in NVIDIA's driver README (its appendix gives the device ids), and the release notes that add or
drop a generation: open modules drive Turing and newer GPUs, from branch 515 on; Grace Hopper and Blackwell need open modules; 580 is the
last branch for Maxwell, Pascal and Volta. Compared with every GPU in pci.ids of 2023. The first branch for B300 and GB300 (3180-31ff) is
not known for certain, and is assumed to be Blackwell's. A device id that is not in the table has no known generation, which matches
nothing (D3).
"""

from __future__ import annotations

from dataclasses import dataclass

from .modules import OPEN, PROPRIETARY

_OPEN_SINCE = 515
_ANY, _NEVER = 0, 10**6


@dataclass(frozen=True)
class Generation:
    """GPUs that drivers treat alike. ``ids`` are ranges of PCI device ids, ``oldest`` and ``newest`` are driver branches, the first part of
    a version; all are inclusive."""

    name: str
    ids: tuple[tuple[int, int], ...]
    flavours: tuple[str, ...]
    oldest: int = _ANY
    newest: int = _NEVER

    def supports_version(self, version: str) -> bool:
        """Whether modules of ``version``, of either flavour, drive it."""
        return any(not self.refusal(flavour, version) for flavour in self.flavours)

    def refusal(self, flavour: str, version: str) -> str:
        """Why modules of this flavour and version do not drive it; "" if they do."""
        if flavour not in self.flavours:
            return f"{self.name} GPUs need {' or '.join(self.flavours)} kernel modules, these are {flavour or 'of unknown flavour'}"
        if branch(version) < self.oldest:
            return f"{self.name} GPUs need driver branch {self.oldest} or newer, {version} is older"
        if branch(version) > self.newest:
            return f"driver branch {self.newest} is the last for {self.name} GPUs, {version} is newer"
        if flavour == OPEN and branch(version) < _OPEN_SINCE:
            return f"open kernel modules exist from driver branch {_OPEN_SINCE} on, {version} is older"
        return ""


_BOTH = (OPEN, PROPRIETARY)
GENERATIONS = (
    Generation("maxwell", ((0x1340, 0x15EF), (0x1600, 0x17FF)), (PROPRIETARY,), newest=580),
    Generation("pascal", ((0x15F0, 0x15FF), (0x1B00, 0x1D7F)), (PROPRIETARY,), newest=580),
    Generation("volta", ((0x1D80, 0x1DFF),), (PROPRIETARY,), newest=580),
    Generation("turing", ((0x1E00, 0x1FFF), (0x2180, 0x21FF)), _BOTH, oldest=410),
    Generation("ampere", ((0x2080, 0x20FF), (0x2200, 0x22FF), (0x2400, 0x25FF)), _BOTH, oldest=450),
    Generation("hopper", ((0x2300, 0x2341),), _BOTH, oldest=515),
    Generation("grace-hopper", ((0x2342, 0x235F),), (OPEN,), oldest=525),
    Generation("ada", ((0x2680, 0x28FF),), _BOTH, oldest=520),
    Generation("blackwell", ((0x2900, 0x2FFF), (0x3180, 0x31FF)), (OPEN,), oldest=570),
)
NAMES = tuple(generation.name for generation in GENERATIONS)


def branch(version: str) -> int:
    """A driver version's branch, such as 580 of 580.126.09; 0 if it has none."""
    first = version.split(".", 1)[0]
    return int(first) if first.isascii() and first.isdigit() and len(first) < 10 else 0


def of_device(device: str) -> Generation | None:
    """The generation of a GPU by its PCI device id in hex, such as 2330; None if it is not known."""
    try:
        number = int(device, 16)
    except ValueError:
        return None
    return next((g for g in GENERATIONS if any(low <= number <= high for low, high in g.ids)), None)


def supported(flavour: str, version: str) -> tuple[Generation, ...]:
    """All generations that modules of this flavour and version drive."""
    return tuple(g for g in GENERATIONS if not g.refusal(flavour, version))
