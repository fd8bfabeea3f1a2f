"""Everything that pip installs from outside is locked: exact versions, and the hashes of what it may install."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
FOLDER = TOP / "requirements"
LOCKS = sorted(FOLDER.glob("*-py*.txt"))
LOCKED = re.compile(r"([A-Za-z0-9._-]+)==([^\s;]+)(?: ; [^\\\n]+)?(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n")


def name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def locked(lock: Path) -> dict[str, str]:
    return {name(package): version for package, version in LOCKED.findall(lock.read_text())}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_is_nothing_but_packages_with_hashes(lock: Path) -> None:
    assert LOCKED.sub("", lock.read_text()) == ""


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_has_the_versions_that_are_asked_for(lock: Path) -> None:
    what, _, version = lock.stem.partition("-py")
    asked = re.findall(r'^([\w.-]+)==([\w.]+)(?:; python_version (<|>=) "3\.(\d+)")?$', (FOLDER / f"{what}.in").read_text(), re.MULTILINE)
    minor = int(version.partition(".")[2])
    mine = [(p, v) for p, v, sign, bound in asked if not sign or (minor >= int(bound)) == (sign == ">=")]
    assert mine
    assert {name(package): version for package, version in mine}.items() <= locked(lock).items()


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.in")), ids=lambda file: file.stem)
def test_each_list_names_exact_versions_and_has_a_lock(file: Path) -> None:
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+(; python_version .*)?", line)] == []
    assert [lock for lock in LOCKS if lock.stem.startswith(f"{file.stem}-py")]


def test_the_lock_of_this_python_is_what_is_installed() -> None:
    lock = FOLDER / f"lab-py{sys.version_info.major}.{sys.version_info.minor}.txt"
    assert lock in LOCKS


@pytest.mark.subprocess
def test_pip_is_never_called_without_hashes() -> None:
    """Wherever a command of this repository installs packages; `--no-deps` installs only the program of this repository itself."""
    shown = subprocess.run(["git", "-C", str(TOP), "grep", "-hE", r"pip.*\binstall\b"], capture_output=True, text=True, check=True).stdout
    calls = [line for line in shown.splitlines() if re.search(r"(bin/pip\"?|`pip)\)?[\"',]* .*install.* ", line)]
    assert len(calls) > 4
    assert [line for line in calls if not re.search(r"--require-hashes|--no-deps|\*options|`pip install` of", line)] == []
