"""The exit statuses of nvidia-smi, from its manual."""

from __future__ import annotations

NO_DEVICE, MISMATCH, NOT_LOADED = 6, 18, 9
# Those that mean a hardware fault.
HARDWARE_STATUSES = {
    8: "external power is not attached to a GPU",
    10: "the kernel has trouble with a GPU's interrupts, or the GPU is lost",
    14: "the infoROM is corrupted",
    15: "a GPU has fallen off the bus",
}
