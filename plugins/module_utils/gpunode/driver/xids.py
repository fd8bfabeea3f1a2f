"""Xids: the numbers of the errors that NVIDIA's module writes to the kernel's log, and what each means. Pure.

Sources: NVIDIA's Xid catalog for Ampere and newer GPUs and its guidance classes
(https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html, read in November 2026), and for numbers that only older GPUs have
its earlier list (https://docs.nvidia.com/deploy/xid-errors/archive/index.html). A number that is not in the table says nothing.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from ..util.expressions import expression


class About(str, enum.Enum):
    """What an Xid is about. ``MESSAGE``: the message says it, not the number. ``NOTHING``: corrected or only reported; nobody need act."""

    HARDWARE = "hardware"
    DRIVER = "driver"
    APPLICATION = "application"
    MESSAGE = "message"
    NOTHING = "nothing"


_H, _D, _A, _M, _N = About.HARDWARE, About.DRIVER, About.APPLICATION, About.MESSAGE, About.NOTHING
# Among the hardware's are those that a reset or a remapping corrects: a GPU on which a driver fails to start has them as its cause.
XIDS: dict[int, tuple[About, str]] = {
    8: (_A, "the GPU stopped processing"),
    11: (_A, "invalid or corrupted push buffer stream"),
    13: (_A, "exception of the graphics engine"),
    14: (_N, "an error that was injected for a test"),
    25: (_A, "invalid or illegal push buffer stream"),
    31: (_A, "page fault of the GPU's memory"),
    32: (_D, "invalid or corrupted push buffer stream"),
    37: (_D, "error of the driver's firmware"),
    38: (_D, "error of the driver's firmware"),
    39: (_D, "exception of a copy engine"),
    40: (_D, "exception of a copy engine"),
    41: (_D, "exception of a copy engine"),
    43: (_A, "a program's channel was stopped"),
    44: (_D, "fault of the graphics engine during a context switch"),
    45: (_A, "a program's channels were removed, after another error or by its end"),
    46: (_D, "the GPU stopped processing"),
    48: (_H, "double bit ECC error"),
    54: (_H, "auxiliary power is not connected"),
    56: (_H, "error of the display engine"),
    57: (_H, "error of the memory interface"),
    58: (_H, "error of the GPU's memory"),
    60: (_D, "exception of the video processor"),
    61: (_D, "breakpoint of an internal micro-controller"),
    62: (_H, "an internal micro-controller halted"),
    63: (_H, "memory was remapped or retired"),
    64: (_H, "memory could not be remapped or retired"),
    65: (_D, "exception of the video processor"),
    66: (_D, "illegal access by the driver"),
    67: (_D, "illegal access by the driver"),
    68: (_D, "exception of a video decoder"),
    69: (_A, "class error of the graphics engine"),
    **dict.fromkeys((70, 71, 72, 75, 76, 77, 85, *range(126, 136)), (_D, "exception of a copy engine")),
    74: (_H, "NVLink error"),
    78: (_M, "a vGPU could not be started"),
    79: (_H, "the GPU has fallen off the bus"),
    80: (_A, "corrupted data was sent to the GPU"),
    **dict.fromkeys((82, *range(99, 106)), (_D, "error of a JPEG engine")),
    **dict.fromkeys((83, 84, 88, 89, 96, 97, 98), (_D, "error of a video decoder")),
    86: (_D, "exception of an optical flow engine"),
    92: (_H, "high rate of single bit ECC errors"),
    93: (_N, "the infoROM's wear limit was exceeded"),
    94: (_H, "contained memory error"),
    95: (_H, "uncontained memory error"),
    106: (_N, "test message"),
    107: (_N, "test message"),
    109: (_D, "a context switch took too long"),
    110: (_H, "security fault"),
    119: (_H, "the GPU's system processor (GSP) does not answer"),
    120: (_H, "error of the GPU's system processor (GSP)"),
    121: (_N, "corrected error of the link to the CPU (C2C)"),
    136: (_H, "an NVLink could not be trained"),
    137: (_A, "illegal access to another GPU over NVLink"),
    139: (_D, "exception of an optical flow engine"),
    140: (_H, "ECC error that was not recovered"),
    141: (_D, "error of CUDA's fast path"),
    142: (_D, "error of a video encoder"),
    143: (_H, "the GPU could not be initialised"),
    144: (_M, "NVLink: SAW"),
    145: (_M, "NVLink: RLW"),
    146: (_M, "NVLink: TLW"),
    147: (_M, "NVLink: TREX"),
    148: (_M, "NVLink: NVLPW_CTRL"),
    149: (_M, "NVLink: NETIR"),
    150: (_M, "NVLink: MSE"),
    151: (_D, "error of a key rotation"),
    152: (_D, "error of the deep learning accelerator"),
    153: (_D, "the deep learning accelerator took too long"),
    154: (_M, "the recovery that the GPU needs has changed"),
    155: (_D, "an NVLink was taken down by software"),
    156: (_H, "a resource of the GPU was retired"),
    157: (_H, "a resource of the GPU could not be retired"),
    158: (_H, "fatal timeout of the GPU"),
    159: (_H, "error of the link to the CPU (CHI)"),
    160: (_N, "a memory channel was retired"),
    161: (_N, "a memory channel could not be retired"),
    **dict.fromkeys(range(162, 166), (_N, "power smoothing")),
    166: (_M, "NVLink traffic that was not encrypted"),
    167: (_H, "fatal timeout on PCIe"),
    168: (_H, "errors in the protected part of the GPU's memory"),
    169: (_H, "an internal micro-controller (SEC2) halted"),
    170: (_M, "interrupt of an encrypted NVLink"),
    171: (_H, "uncorrectable error of the GPU's memory"),
    172: (_H, "uncorrectable error of the GPU's caches"),
}
_NVLINK5 = range(144, 151)
_XID = expression(r"NVRM: Xid \((?:PCI:)?([0-9A-Fa-f:.]{1,20})[^)\n]{0,64}\): ([0-9]{1,4})\b")
# A message may have a text of a user's: a process's name, which has at most fifteen characters. So each of these is longer than that.
_SEVERITY = expression(r"\b(Fatal|Nonfatal)[ ,]+(?:XC|cross-contain=)[0-9][ ,]+(?:i|injected=)[0-9][ ,]+Link [0-9]", re.I)
_RECOVERY = expression(
    r"GPU recovery action changed from 0x[0-9a-f]{1,8} \([A-Za-z0-9 ]{1,40}\) to 0x[0-9a-f]{1,8} \(([A-Za-z0-9 ]{1,40})\)"
)
_TOO_DIFFERENT = "Guest driver is incompatible with host driver"
_VGPU_TYPE = "vGPU type is not supported"
RESET, REBOOT = "reset", "reboot"


@dataclass(frozen=True)
class Xid:
    """One Xid in the log. ``gpu`` is the PCI address that its message has, ``text`` the whole message."""

    number: int
    gpu: str
    text: str

    @property
    def is_hardware(self) -> bool:
        """Whether it is the hardware's: by its number, or where its message says so itself (NVLink 5)."""
        if self.number in _NVLINK5:
            found = _SEVERITY.search(self.text)
            return bool(found and found[1].lower() == "fatal")
        return XIDS.get(self.number, (_N, ""))[0] is _H

    @property
    def is_other_driver(self) -> bool:
        """Whether the host of a vGPU refused the version of the driver in this guest."""
        return self.number == 78 and _TOO_DIFFERENT in self.text

    @property
    def is_other_type(self) -> bool:
        """Whether the vGPU is of a type that this system or GPU cannot have."""
        return self.number == 78 and _VGPU_TYPE in self.text

    @property
    def recovery(self) -> str | None:
        """What the GPU needs from now on, as the message has it, such as ``GPU Reset Required``; None if this Xid does not say it."""
        found = _RECOVERY.search(self.text) if self.number == 154 else None
        return found[1] if found else None


def parse(message: str) -> Xid | None:
    """The Xid that a message of the driver reports; None if it reports none."""
    found = _XID.match(message)
    return Xid(int(found[2]), found[1], message) if found else None


def needs(recovery: str) -> str:
    """``RESET`` or ``REBOOT``, whichever the words of an Xid 154 ask for; "" if nothing, or only that programs end (``Drain P2P``)."""
    words = recovery.lower()
    if "reboot" in words:
        return REBOOT
    return RESET if "reset" in words or "flr" in words else ""
