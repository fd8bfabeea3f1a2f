"""Every path that this project uses on a node, defined once. docs/manifest.md describes each document.

Paths are relative to the root of the system that is worked on, which may be a mounted image. Only ``LOCK`` is absolute: it belongs to the
machine that runs the program.
"""

from __future__ import annotations

from pathlib import Path

LOCK = Path("/run/gpu-prebake/lock")  # shared by bake and boot, because each ends containers that the other may have left
# The driver's services that were stopped and not started again; in /run, because no reboot leaves them stopped.
STOPPED_SERVICES = "run/gpu-prebake/stopped-services"
LOGS = "var/log/gpu-prebake"

STORE = "var/lib/gpu-prebake"
LAYERS = f"{STORE}/layers"
OBJECTS = f"{STORE}/objects"
ORIGINALS = f"{STORE}/originals"

NODE_RECORD = f"{STORE}/node-record.json"
ACTIVATION = f"{STORE}/activation.json"
INSTALLED_FILES = f"{STORE}/placed.json"
DRIVER_IMAGES = f"{STORE}/driver-images.json"

ACTIVATION_JOURNAL = f"{STORE}/activation-journal.json"
BAKE_JOURNAL_OF_0_1 = f"{STORE}/bake-under-way.json"  # a bake in place of version 0.1.0 was killed; only refused now
REMOVAL_JOURNAL = f"{STORE}/removal-under-way.json"
# Present while a boot removes a driver, and after that was interrupted: on a node that should have no driver nothing else shows it.
BOOT_REMOVAL_JOURNAL = f"{STORE}/boot-removal-under-way.json"

SCRATCH_NOTE = f"{STORE}/scratch-folders.json"  # which folders a driver container has been given

BAKE_REPORT = f"{STORE}/bake-report.json"
SEAL_REPORT = f"{STORE}/seal-report.json"
RELEASE_NOTES = f"{STORE}/release-notes.txt"
