"""Which kernel modules drive which GPU: generations by PCI device id, with the flavours and the first and last driver branch of each.

Sources:

- ids: every GPU from Kepler on in pci.ids of 2026-10-24 (an extract is in tests/data/pci.ids);
- last branches: NVIDIA's table of architectures in the documentation of its data center drivers, of 2025 (Kepler 470; Maxwell, Pascal and
  Volta 580), and ``legacybranch`` in the supported-gpus.json of 550.163.01 (GRID K1, K2 and K340: 367). No branch until 615 of September
  2026 has dropped a later generation;
- first branches: the releases that added a generation, by their release notes and lists of supported chips. Those of B300 and GB300 and of
  Rubin are not known for certain: B300 and GB300 are taken for Blackwell; 610 is the oldest branch that is used with Rubin, whose chips are
  in NVIDIA's open sources from 615.71.09 on;
- flavours: open modules drive Turing and newer GPUs, from branch 515 on (README of NVIDIA/open-gpu-kernel-modules); Grace Hopper,
  Blackwell and Rubin have no proprietary ones.

A driver's own list of supported GPUs, where a layer has one, goes before this table (gpu_list.py). A device id that neither has is of no
known generation, which matches nothing (D3).
"""

from __future__ import annotations

from dataclasses import dataclass

from .modules import OPEN, PROPRIETARY

_OPEN_SINCE = 515
_NEVER = 10**6
_HIGHEST_ID = 0xFFFF


@dataclass(frozen=True)
class Generation:
    """GPUs that drivers treat alike. ``ids`` are ranges of PCI device ids, ``oldest`` and ``newest`` are driver branches, the first part of
    a version; all are inclusive."""

    name: str
    ids: tuple[tuple[int, int], ...]
    flavours: tuple[str, ...]
    oldest: int
    newest: int = _NEVER

    def unsupported(self, version: str) -> str:
        """Why no modules of ``version`` drive it; "" if those of one flavour do."""
        refusals = sorted({self.refusal(flavour, version) for flavour in self.flavours})
        return "" if "" in refusals else "; ".join(refusals)

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
_KEPLER_IDS = (
    *((0x0FA0, 0x0FA7), (0x0FC0, 0x0FEE), (0x0FF0, 0x0FF1), (0x0FF3, 0x103F)),
    *((0x1180, 0x11BE), (0x11C0, 0x11FF), (0x1280, 0x12BF), (0x130B, 0x130B)),
)
GENERATIONS = (
    Generation("kepler-grid", ((0x0FEF, 0x0FEF), (0x0FF2, 0x0FF2), (0x11BF, 0x11BF)), (PROPRIETARY,), oldest=295, newest=367),
    Generation("kepler", _KEPLER_IDS, (PROPRIETARY,), oldest=295, newest=470),
    Generation("maxwell", ((0x1340, 0x15BF), (0x1600, 0x16FF), (0x1740, 0x17FF)), (PROPRIETARY,), oldest=334, newest=580),
    Generation("pascal", ((0x15C0, 0x15FF), (0x1700, 0x173F), (0x1B00, 0x1D7F)), (PROPRIETARY,), oldest=361, newest=580),
    Generation("volta", ((0x1D80, 0x1DFF),), (PROPRIETARY,), oldest=384, newest=580),
    Generation("turing", ((0x1E00, 0x1FFF), (0x2180, 0x21FF)), _BOTH, oldest=410),
    Generation("ampere", ((0x2080, 0x20FF), (0x2200, 0x227F), (0x2400, 0x25FF)), _BOTH, oldest=450),
    Generation("hopper", ((0x2300, 0x2341), (0x2360, 0x23FF)), _BOTH, oldest=515),
    Generation("grace-hopper", ((0x2342, 0x235F),), (OPEN,), oldest=525),
    Generation("ada", ((0x2680, 0x28FF),), _BOTH, oldest=520),
    Generation("blackwell", ((0x2900, 0x2F7F), (0x3180, 0x327F), (0x3300, 0x337F), (0x3400, 0x347F)), (OPEN,), oldest=570),
    Generation("rubin", ((0x3000, 0x30FF),), (OPEN,), oldest=610),
)
NAMES = tuple(generation.name for generation in GENERATIONS)


def branch(version: str) -> int:
    """A driver version's branch, such as 580 of 580.126.09; 0 if it has none."""
    first = version.split(".", 1)[0]
    return int(first) if first.isascii() and first.isdigit() and len(first) < 10 else 0


def number_of(device: str) -> int | None:
    """A PCI device id in hex, such as 2330, as a number; None if it is none."""
    try:
        number = int(device, 16)
    except ValueError:
        return None
    return number if 0 <= number <= _HIGHEST_ID else None


def of_device(device: str) -> Generation | None:
    """The generation of a GPU by its PCI device id in hex, such as 2330; None if it is not known."""
    number = number_of(device)
    return None if number is None else next((g for g in GENERATIONS if any(low <= number <= high for low, high in g.ids)), None)
