"""Runs galaxy-importer on the artifact: the program with which Galaxy accepts or refuses a published collection."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lab.machine import host
from tests.collection.conftest import Artifact
from tests.collection.environments import environment

SETTINGS = Path(__file__).with_name("galaxy-importer.cfg")
TIMEOUT_S = 600.0
LAST_LINES = 8
COMPLAINT = re.compile(r"(ERROR|WARNING|CRITICAL)\b")
# Both are off in pycodestyle unless they are selected, as the importer does. ruff's formatter writes code that they warn about.
FORMATTING = re.compile(r"WARNING: plugins/\S+:\d+:\d+: (E203|W503) ")


def test_galaxy_accepts_the_artifact(artifact: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run_importer(artifact.tarball, tmp_path)
    with capsys.disabled():
        print(f"\n{host.tail(ran.stdout, LAST_LINES)}")
    assert ran.rc == 0, host.tail(ran.stdout + ran.stderr)
    assert complaints(ran.stdout) == []
    assert "...ansible-lint run complete" in ran.stdout.splitlines()
    result = json.loads((tmp_path / "importer_result.json").read_text())
    assert documented(result) == {path.stem for path in (artifact.root / "plugins/modules").glob("*.py")}


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        pytest.param("ERROR: The import failed for the following reason: No collection readme found", True, id="a refusal"),
        pytest.param("ERROR: Error running ansible-doc: cmd=... returncode=1", True, id="an error that the importer goes on after"),
        pytest.param("WARNING: flake8 not found, skipping", True, id="a check that did not run"),
        pytest.param("WARNING: plugins/module_utils/a.py:1:1: F401 'os' imported but unused", True, id="flake8"),
        pytest.param("WARNING: playbooks/a.yml:1: name[play]: All plays should be named.", True, id="ansible-lint"),
        pytest.param(
            "WARNING: plugins/module_utils/a.py:1:1: W503 line break before binary operator", False, id="the formatter's line break"
        ),
        pytest.param("WARNING: plugins/module_utils/a.py:1:1: E203 whitespace before ':'", False, id="the formatter's slice"),
        pytest.param("Linting module a via flake8...", False, id="progress"),
    ],
)
def test_what_counts_as_a_complaint(line: str, counts: bool) -> None:
    assert complaints(f"Importing\n{line}\n") == ([line] if counts else [])


def run_importer(tarball: Path, folder: Path) -> host.Result:
    """Runs the importer in `folder`, which is its home too, so that no configuration of the machine is used."""
    importer = environment("galaxy-importer")
    temporary = folder / "temporary"
    temporary.mkdir()
    env = {
        "HOME": str(folder),
        "PATH": f"{importer}/bin:/usr/bin:/bin",
        "GALAXY_IMPORTER_CONFIG": str(SETTINGS),
        "GALAXY_IMPORTER_TMP_ROOT_DIR": str(temporary),
        "GALAXY_IMPORTER_ANSIBLE_LOCAL_TMP": str(temporary / "ansible"),
    }
    program = [str(importer / "bin/python"), "-m", "galaxy_importer.main", str(tarball)]
    argv = ["env", "-u", "PYTHONPATH", "-u", "ANSIBLE_CONFIG", f"--chdir={folder}", *program]
    return host.run(argv, timeout_s=TIMEOUT_S, check=False, env=env)


def complaints(output: str) -> list[str]:
    """The importer's errors and warnings; after most of them it continues and exits with 0."""
    return [line for line in output.splitlines() if COMPLAINT.match(line) and not FORMATTING.match(line)]


def documented(result: dict[str, object]) -> set[str]:
    """The modules whose documentation the importer has read."""
    contents = result["docs_blob"]["contents"]  # type: ignore[index, call-overload]
    return {item["content_name"] for item in contents if item["content_type"] == "module" and (item["doc_strings"] or {}).get("doc")}
