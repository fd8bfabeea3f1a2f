"""Every path of ours on a node, once. docs/manifest.md says what each document holds.

Paths are relative to the root of the system that is worked on, which may be a mounted image. ``LOCK`` alone is absolute: it belongs to the
machine that runs the program.
"""

from __future__ import annotations

from pathlib import Path

LOCK = Path("/run/gpu-prebake/lock")  # one for bake and boot: each ends containers that the other may have left
LOGS = "var/log/gpu-prebake"

STORE = "var/lib/gpu-prebake"
LAYERS = f"{STORE}/layers"
OBJECTS = f"{STORE}/objects"
ORIGINALS = f"{STORE}/originals"

NODE_RECORD = f"{STORE}/node-record.json"
ACTIVATION = f"{STORE}/activation.json"
INSTALLED_FILES = f"{STORE}/placed.json"

ACTIVATION_JOURNAL = f"{STORE}/activation-journal.json"
# Names what was there before a bake in place that is under way, or that was interrupted.
BAKE_JOURNAL = f"{STORE}/bake-under-way.json"
REMOVAL_JOURNAL = f"{STORE}/removal-under-way.json"
# Present while a boot removes a driver, and after that was interrupted: on a node where no driver belongs nothing else shows it.
BOOT_REMOVAL_JOURNAL = f"{STORE}/boot-removal-under-way.json"

BAKE_REPORT = f"{STORE}/bake-report.json"
SEAL_REPORT = f"{STORE}/seal-report.json"
RELEASE_NOTES = f"{STORE}/release-notes.txt"
