"""The collection, the Python package and the program gpu-prebake have the same version."""

from __future__ import annotations

from pathlib import Path

import tomllib
import yaml
from click.testing import CliRunner

from gpu_prebake import cli

TOP = Path(__file__).parents[2]


def test_collection_package_and_program_have_the_same_version() -> None:
    version = yaml.safe_load((TOP / "galaxy.yml").read_text(encoding="utf-8"))["version"]
    package = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    lines = CliRunner().invoke(cli.cli, ["--version"]).output.splitlines()
    assert package == version
    assert f"  gpu prebake version = {version}" in lines
    assert f"  collection version = {version}" in lines
