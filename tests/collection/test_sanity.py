"""Runs `ansible-test sanity` on the installed collection, with the machine's Python: every test that it has for collections."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from lab.machine import host, paths

BOOTSTRAP = Path(__file__).with_name("get_pip.py")
TIMEOUT_S = 1800.0


def test_every_sanity_test_passes(true_path: Path) -> None:
    ran = sanity(true_path)
    assert ran.rc == 0, "\n".join(problems(ran.stdout + ran.stderr))
    tests = re.findall(r'^Running sanity test "([^"]+)"', ran.stdout + ran.stderr, re.MULTILINE)
    assert {"validate-modules", "ansible-doc", "import", "pylint", "pep8", "yamllint", "compile"} <= set(tests)


def sanity(collection: Path) -> host.Result:
    """Runs ansible-test in `collection`, with a home of its own that is kept in the cache with the environments that it creates."""
    home = paths.cache() / "ansible-test"
    place = home / ".ansible/test/cache/get_pip_24_2.py"
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(BOOTSTRAP, place)
    program = shutil.which("ansible-test") or "ansible-test"
    # Only the system's folders are in PATH: ansible-test tests with every python3.N that it finds.
    env = {"HOME": str(home), "PATH": f"{Path(program).parent}:/usr/sbin:/usr/bin:/sbin:/bin"}
    argv = ["env", "-u", "PYTHONPATH", "-u", "ANSIBLE_CONFIG", f"--chdir={collection}", program, "sanity", "--venv", "--color", "no"]
    return host.run(argv, timeout_s=TIMEOUT_S, check=False, env=env)


def problems(output: str) -> list[str]:
    """The lines that name a file or an error."""
    return [line for line in output.splitlines() if re.match(r"(ERROR|FATAL|WARNING)", line)]
