"""The report of a run, as docs/cli.md describes it: versions, and for each node its outcome, reason, driver, sizes and the time of each
step."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu_prebake import __version__
from gpu_prebake.collection import Collection
from gpu_prebake.nodes import Node

SCHEMA = 1
_BOOT_FIELDS = ("result", "refused", "provisional", "containers", "containerd_restarted", "device_check")
_REMOVE_FIELDS = ("result", "reason", "removed", "left", "services", "modules", "images", "containerd_restarted", "reboot_needed")
_FAILURE_FIELDS = ("container_output", "dkms_log", "log", "replaced", "deleted", "stderr", "stdout", "cmd", "rc")


def versions(collection: Collection | None) -> dict[str, str]:
    """The versions of all programs that took part."""
    return {
        "gpu_prebake": __version__,
        "collection": collection.version if collection else "",
        "ansible_core": importlib.metadata.version("ansible-core"),
        "ansible_runner": importlib.metadata.version("ansible-runner"),
        "python": platform.python_version(),
    }


def node(one: Node) -> dict[str, Any]:
    """One node's part of the report."""
    entry: dict[str, Any] = {
        "name": one.name,
        "outcome": one.outcome,
        "steps": [{"name": step.name, "seconds": step.seconds, "outcome": step.outcome} for step in one.steps],
    }
    failed = one.interrupted if one.interrupted is not None else one.failed
    if one.bake is not None and failed is None:
        entry.update(_bake(one.bake))
    if one.boot is not None:
        entry.update(_boot(one.boot))
    if one.remove is not None:
        entry.update({name: one.remove[name] for name in _REMOVE_FIELDS if name in one.remove}, action="remove")
        entry["module_steps"] = one.remove.get("steps", [])
    if one.seal is not None:
        entry.update(action="seal", reason=one.seal.get("summary", ""), seal=one.seal.get("report") or {})
    if failed is not None:
        entry.update(code=str(failed.get("code", "")), message=str(failed.get("msg", "")))
        entry.update(details={name: failed[name] for name in _FAILURE_FIELDS if failed.get(name)})
    elif one.unreachable:
        entry.update(code="unreachable", message=one.unreachable)
    if one.odd:
        entry["odd_values"] = one.odd
    if one.step is not None:
        entry["unfinished_step"] = one.step.name
    if one.outcome not in ("ok", "changed"):
        entry["last_lines"] = list(one.lines)[-40:]
    return entry


def _bake(result: Mapping[str, Any]) -> dict[str, Any]:
    """From prebake_layer's result; its own report, complete, is under ``bake``."""
    report = _mapping(result.get("report"))
    identity = _mapping(report.get("identity"))
    entry: dict[str, Any] = {
        "action": "build-only" if result.get("changed") else "none",
        "driver_version": identity.get("version", ""),
        "driver_kind": identity.get("kind", ""),
        "flavour": identity.get("flavour", ""),
        "kernels": [identity["kver"]] if identity.get("kver") else [],
        "image": report.get("image", ""),
        "config_digest": identity.get("config_digest", ""),
        "baked_files": report.get("files"),
        "baked_bytes": report.get("bytes"),
        "module_steps": report.get("steps", []),
        "warnings": report.get("warnings", []),
        "bake": report,
    }
    return entry


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _boot(result: Mapping[str, Any]) -> dict[str, Any]:
    """From gpu_boot's result, also after a failure."""
    arguments = _mapping(_mapping(result.get("invocation")).get("module_args"))
    entry = {
        "action": result.get("action", ""),
        "reason_code": result.get("reason_code", ""),
        "reason": result.get("reason", ""),
        "driver_version": result.get("module_version", ""),
        "image": arguments.get("image", ""),
        "module_steps": result.get("steps", []),
        "warnings": result.get("node_warnings", []),
    }
    return {**entry, **{name: result[name] for name in _BOOT_FIELDS if name in result}}


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Writes the report to a new file and renames it, so that a reader sees either the old or the complete new report."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)


def summary(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each node, and the message of each that did not succeed."""
    lines = []
    for entry in entries:
        what = [str(entry[key]) for key in ("action", "reason_code", "driver_version", "code") if entry.get(key)]
        seconds = sum(step["seconds"] for step in entry["steps"])
        lines.append(f"{entry['name']}: {entry['outcome']}{': ' if what else ''}{', '.join(what)} ({seconds:.1f} s)")
        if entry["outcome"] not in ("ok", "changed") and entry.get("message"):
            lines.append(f"{entry['name']}: {entry['message']}")
    return lines
