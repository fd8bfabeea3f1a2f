"""The modules' argument specifications, read from the table of options (gpunode/options.py)."""

from __future__ import annotations

from typing import Any

from .gpunode.options import Option, of_module


def argument_spec(module: str) -> dict[str, dict[str, Any]]:
    """What AnsibleModule takes as ``argument_spec`` for the module of this name."""
    return {name: _specification(option) for name, option in of_module(module).items()}


def fields_of(module: str, request: str) -> tuple[str, ...]:
    """The options of a module that are fields of ``request`` (``Policy``, say) under the same name."""
    return tuple(name for name, option in of_module(module).items() if f"{request}.{name}" in option.fields)


def _specification(option: Option) -> dict[str, Any]:
    found: dict[str, Any] = {"type": option.type}
    if option.elements:
        found["elements"] = option.elements
    if option.required:
        found["required"] = True
    elif option.default is not None:
        found["default"] = list(option.default) if option.type == "list" else option.default
    if option.choices:
        found["choices"] = list(option.choices)
    if option.secret is not None:
        found["no_log"] = option.secret
    return found
