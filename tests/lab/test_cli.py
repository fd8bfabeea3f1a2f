"""gpu-prebake against a real node: the lines of the compile while it runs, the report, an interrupt."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from lab.machine import host, paths, ssh
from tests.lab.bakery import ENVIRONMENT, Bakery


def start(bakery: Bakery, report: Path, image: str, **variables: Any) -> subprocess.Popen[str]:
    _, *words, _ = bakery.argv({"nvidia_prebake_image": bakery.reference(image), **variables})
    argv = [str(paths.TOP / "bin/gpu-prebake"), "bake", *words, "--report", str(report)]
    return subprocess.Popen(argv, env=host.environment(ENVIRONMENT), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_for_the_build(bakery: Bakery) -> None:
    end = time.monotonic() + 90
    while "make" not in bakery.processes():
        assert time.monotonic() < end
        time.sleep(0.3)


def jobs(bakery: Bakery) -> str:
    return bakery.ssh("ls -A /run/gpu-prebake/jobs /root/.ansible_async 2>/dev/null | grep -v : || true").strip()


def test_a_bake_shows_the_lines_of_the_compile_while_it_runs_and_writes_a_report(bakery: Bakery, tmp_path: Path) -> None:
    before = bakery.files()
    process = start(bakery, tmp_path / "r.json", "standin")
    assert process.stdout
    shown, seen_at_work = [], False
    for line in process.stdout:
        shown.append(line)
        seen_at_work = seen_at_work or (f"{bakery.node.state.name} | " in line and bakery.processes() != "")
    out = "".join(shown)
    try:
        assert process.wait(timeout=60) == 0, out
        assert seen_at_work
        assert "CC [M]" in out
        assert "\x1b" not in out
        document = json.loads((tmp_path / "r.json").read_text())
        node = document["nodes"][0]
        assert (document["outcome"], node["outcome"], node["action"]) == ("ok", "changed", "build-only")
        assert (node["driver_version"], node["kernels"]) == ("580.126.09", [bakery.kver])
        assert node["config_digest"].startswith("sha256:")
        assert node["baked_bytes"] > 0
        assert "build" in [step["name"] for step in node["module_steps"]]
        assert jobs(bakery) == ""
    finally:
        bakery.restore(before)


def test_an_interrupted_bake_is_rolled_back_and_reported(unchanged: Bakery, tmp_path: Path) -> None:
    process = start(unchanged, tmp_path / "r.json", "standin-build-hangs", nvidia_prebake_tries=1)
    wait_for_the_build(unchanged)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=180)
    assert process.returncode == 130, out
    node = json.loads((tmp_path / "r.json").read_text())["nodes"][0]
    assert (node["outcome"], node["code"], node["unfinished_step"]) == (
        "interrupted",
        "interrupted",
        "Build the driver, check it and record the layer",
    )
    assert jobs(unchanged) == ""


def test_a_killed_module_has_an_error_code_of_its_own(bakery: Bakery, tmp_path: Path) -> None:
    before = bakery.files()
    process = start(bakery, tmp_path / "r.json", "standin-build-hangs", nvidia_prebake_tries=1)
    wait_for_the_build(bakery)
    bakery.ssh("pkill -9 -f [p]rebake_layer")
    try:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 4, out
        assert json.loads((tmp_path / "r.json").read_text())["nodes"][0]["code"] == "module_died"
        assert jobs(bakery) == ""
    finally:
        assert bakery.bake().rc == 0, "the next bake rolls back what the killed one left"
        bakery.restore(before)


def test_an_unknown_host_key_ends_without_a_question_and_a_known_one_logs_in(bakery: Bakery, tmp_path: Path) -> None:
    """With a terminal, where ssh would ask, and with none of the lab's ssh settings, which accept every key."""
    target, known = bakery.node.target, tmp_path / "known_hosts"
    machine = {
        "ansible_host": target.address,
        "ansible_port": target.port,
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(ssh.key()),
        "ansible_ssh_common_args": f"-F /dev/null -o UserKnownHostsFile={known} -o GlobalKnownHostsFile=/dev/null -o IdentitiesOnly=yes",
    }
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": {"node": machine}}}))
    words = ["boot", "--check", "-i", str(tmp_path / "hosts.json"), "-e", f"gpu_boot_image={bakery.reference('standin')}"]
    argv = ["script", "--quiet", "--return", "--command", shlex.join([str(paths.TOP / "bin/gpu-prebake"), *words]), "/dev/null"]
    unknown = host.run(argv, timeout_s=120, check=False)
    assert unknown.rc == 5, unknown.stdout
    assert "Host key verification failed" in unknown.stdout
    assert "(yes/no" not in unknown.stdout
    scanned = host.run(["ssh-keyscan", "-p", str(target.port), target.address], timeout_s=60).stdout
    known.write_text(scanned)
    logged_in = host.run(argv, timeout_s=120, check=False)
    assert logged_in.rc == 0, logged_in.stdout
    assert "no_gpu" in logged_in.stdout
