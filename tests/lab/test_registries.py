"""Getting the driver image from registries with login and TLS, by plain HTTP, through a mirror, and from archives, with a real containerd.

All cases of a kind run in one play, each as a task that may fail; the tests check the result of each.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from lab.driverimages import driverimage, secureregistry
from lab.driverimages.secureregistry import SecureRegistry
from lab.machine import host
from lab.nodes import inventory
from lab.nodes.base import REGISTRY_ADDRESS, REGISTRY_NAME
from tests.lab.bakery import ENVIRONMENT, Bakery

PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - gpu.prebake.driver_image: "{{ item.value }}"
      register: ran
      loop: "{{ cases | dict2items }}"
      loop_control: {label: "{{ item.key }}"}
      ignore_errors: true
    - ansible.builtin.copy:
        content: "{{ dict(cases.keys() | zip(ran.results)) | to_json }}"
        dest: "{{ answers }}"
        mode: "0600"
      check_mode: false
      delegate_to: localhost
      vars: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
"""
# Writes down, several times a second, everything that anybody on the node can see of running programs.
WATCH = "while sleep 0.05; do cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null; done | tr '\\0' '\\n' > /root/seen"
# Packets that open a connection to a registry, or ask for its address.
OUTWARDS = ("-p tcp --syn", "-p udp --dport 53")


@dataclass
class Ran:
    """The output of a play, the result of each case, and what could be seen on the node meanwhile."""

    out: str
    answers: dict[str, dict[str, Any]]
    seen: str = ""

    def failure(self, case: str) -> tuple[str, str]:
        answer = self.answers[case]
        assert answer["failed"], answer
        return answer["code"], answer["msg"]


def play(bakery: Bakery, cases: dict[str, dict[str, Any]], *options: str) -> Ran:
    """Runs the cases, in their order."""
    folder = bakery.folder / f"registries-{len(list(bakery.folder.iterdir()))}"
    folder.mkdir()
    hosts = inventory.write(folder / "inventory.json", [(bakery.node.state.name, bakery.node.target)])
    (folder / "play.yml").write_text(PLAY)
    answers = folder / "answers.json"
    wanted = {name: {"tries": 2, "delay_s": 0, **case} for name, case in cases.items()}
    (folder / "vars.json").write_text(json.dumps({"cases": wanted, "answers": str(answers)}))
    argv = ["ansible-playbook", "-i", str(hosts), "-e", f"@{folder / 'vars.json'}", str(folder / "play.yml"), *options]
    done = host.run(argv, timeout_s=300, check=False, env=ENVIRONMENT)
    assert done.rc == 0, done.stdout + done.stderr
    found = json.loads(answers.read_text())
    for answer in found.values():
        del answer["item"]  # the arguments, which the play itself contains
    return Ran(done.stdout + done.stderr, found)


@pytest.fixture(scope="module")
def registries(bakery: Bakery) -> Iterator[tuple[SecureRegistry, SecureRegistry]]:
    """The two registries with a login; the node's images are removed at the end."""
    bakery.reference("standin")
    yield secureregistry.ensure()
    bakery.ssh("ctr -n k8s.io images rm --sync $(ctr -n k8s.io images ls -q)")


@pytest.fixture(scope="module")
def asked(bakery: Bakery, registries: tuple[SecureRegistry, SecureRegistry]) -> Ran:
    """The play about registries, run with the most verbose output."""
    plain = bakery.reference("standin")
    basic, token = registries
    login = {"registry_username": basic.username, "registry_password": basic.password}
    token_login = {"registry_username": token.username, "registry_password": token.password}
    ca = basic.ca.read_text()
    here, there = basic.reference(plain), token.reference(plain)
    by_address = plain.replace(REGISTRY_NAME, f"{REGISTRY_ADDRESS}:5000")
    mirrored = plain.replace(REGISTRY_NAME, "mirrored.example.com")
    mirrors = bakery.root / "root/mirrors"
    (mirrors / "mirrored.example.com").mkdir(parents=True)
    (mirrors / "mirrored.example.com/hosts.toml").write_text(
        f'server = "https://mirrored.example.com"\n[host."https://{basic.name}"]\n  capabilities = ["pull", "resolve"]\n'
    )
    (bakery.root / "root/ca.pem").write_text(ca)
    wrong = {"registry_username": basic.username, "registry_password": "wrong"}
    cases: dict[str, dict[str, Any]] = {
        "no login": {"image": here, "registry_ca": ca},
        "wrong password": {"image": here, "registry_ca": ca, **wrong},
        "no login, token": {"image": there, "registry_ca": ca},
        "wrong password, token": {"image": there, "registry_ca": ca, **wrong},
        "unknown authority": {"image": here, **login},
        "http to https": {"image": here, "registry_plain_http": True, **login},
        "https to http": {"image": by_address, "hosts_dir": ""},
        "no such image": {"image": here[:-1] + "9", "registry_ca": ca, **login},
        "contrary hosts folder": {"image": mirrored, "registry_plain_http": True, "hosts_dir": "/root/mirrors"},
        "basic": {"image": here, "registry_ca": ca, **login},
        "again": {"image": here, "registry_ca": ca, **login},
        "token": {"image": there, "registry_ca": "/root/ca.pem", **token_login},
        "plain http": {"image": by_address, "hosts_dir": "", "registry_plain_http": True},
        "mirror": {"image": mirrored, "hosts_dir": "/root/mirrors", "registry_ca": ca, **login},
    }
    (bakery.root / "root/watch.sh").write_text(WATCH)
    bakery.ssh("setsid sh /root/watch.sh < /dev/null > /dev/null 2>&1 & echo $! > /root/watch.pid")
    try:
        ran = play(bakery, cases, "--diff")
    finally:
        bakery.ssh("kill -- -$(cat /root/watch.pid)")
    ran.seen = (bakery.root / "root/seen").read_text(errors="replace")
    for name in ("seen", "watch.pid", "watch.sh", "ca.pem"):
        (bakery.root / "root" / name).unlink()
    shutil.rmtree(mirrors)
    return ran


@pytest.mark.parametrize("case", ["basic", "token", "plain http", "mirror"])
def test_the_image_is_pulled_and_its_config_digest_returned(asked: Ran, case: str) -> None:
    answer = asked.answers[case]
    assert answer["changed"], answer
    assert answer["config_digest"] == driverimage.build("standin").config_digest


def test_the_second_time_nothing_is_done(asked: Ran) -> None:
    assert asked.answers["again"]["changed"] is False


@pytest.mark.parametrize(
    ("case", "code", "said"),
    [
        ("no login", "registry_login", "requires a login, and none is given"),
        ("wrong password", "registry_login", "does not accept the login of puller"),
        ("no login, token", "registry_login", "requires a login, and none is given"),
        ("wrong password, token", "registry_login", "does not accept the login of puller"),
        ("unknown authority", "registry_certificate", "set registry_ca to the certificate of its authority"),
        ("http to https", "registry_scheme", "leave registry_plain_http off"),
        ("https to http", "registry_scheme", "set registry_plain_http"),
        ("no such image", "image_refused", "whether puller may read it"),
        ("contrary hosts folder", "bad_input", "mirrored.example.com/hosts.toml says that this registry uses https"),
    ],
)
def test_a_pull_that_cannot_succeed_says_why(asked: Ran, case: str, code: str, said: str) -> None:
    found, message = asked.failure(case)
    assert (found, said in message) == (code, True), message
    assert "after 2 tries" not in message


def test_no_password_is_seen_anywhere(asked: Ran, bakery: Bakery, registries: tuple[SecureRegistry, SecureRegistry]) -> None:
    assert f"--user\n{registries[0].username}\n" in asked.seen, "the watch must have seen the pulls"
    for registry in registries:
        # A part of the password that neither JSON nor a shell escapes.
        secret = registry.password.split("\\")[-1][:16]
        assert secret not in asked.seen
        assert secret not in json.dumps(asked.answers)
        places = "/root /tmp /run /var/tmp /var/log /var/lib/gpu-prebake /etc"
        assert bakery.ssh(f"grep -rlF {secret} {places} 2>/dev/null || true") == ""
    assert bakery.ssh("ls -d /run/gpu-prebake-ca-* /tmp/gpu-prebake-ca-* 2>/dev/null || true") == ""


@pytest.fixture(scope="module")
def imported(bakery: Bakery, registries: object, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The play about archives, on a node that cannot open a connection; ``seen`` counts its attempts to open one."""
    folder = tmp_path_factory.mktemp("archives")
    reference = bakery.reference("standin").replace(REGISTRY_NAME, "nowhere.example.com")
    other = reference.replace("standin", "other")
    driver = driverimage.build("standin")
    archives = {}
    for kind in ("oci", "docker"):
        for name, written in (("right", reference), ("other", other)):
            archives[f"{kind} {name}"] = folder / f"{kind}-{name}.tar"
            copy = ["skopeo", "copy", "--insecure-policy", "--quiet", "--preserve-digests"][: 4 if kind == "docker" else 5]
            host.run([*copy, f"oci:{driver.layout}", f"{kind}-archive:{archives[f'{kind} {name}']}:{written}"], timeout_s=120)
    cut = folder / "cut.tar"
    cut.write_bytes(archives["oci right"].read_bytes()[:9_000_000])
    (bakery.root / "root/there.tar").write_bytes(archives["oci right"].read_bytes())
    by_digest = f"{reference.rpartition(':')[0]}@{driver.digest}"
    digest_names = {"image": by_digest, "kind": driver.kind, "version": driver.version}
    cases: dict[str, dict[str, Any]] = {
        "other": {"image": reference, "image_archive": str(archives["oci other"])},
        "other, docker": {"image": reference, "image_archive": str(archives["docker other"])},
        "cut off": {"image": reference, "image_archive": str(cut)},
        "not there": {"image": reference, "image_archive": "/nowhere/driver.tar"},
        "not on the node": {"image": reference, "image_archive": "/nowhere/driver.tar", "image_archive_remote_src": True},
        "on the node": {
            "image": reference.replace("standin", "canonical"),
            "pull_image": reference,
            "image_archive": "/root/there.tar",
            "image_archive_remote_src": True,
        },
        # Before the docker archive: an import may not take the name that another image has, and this archive has the same one.
        "oci, by digest": {**digest_names, "image_archive": str(archives["oci right"])},
        "docker": {"image": reference, "image_archive": str(archives["docker right"])},
        "again": {"image": reference, "image_archive": str(archives["docker right"])},
    }
    before = bakery.ssh("ctr -n k8s.io images ls -q; ctr -n k8s.io content ls -q")
    for packets in OUTWARDS:
        bakery.ssh(f"iptables -A OUTPUT ! -o lo {packets} -j REJECT")
    try:
        checked = play(bakery, {"docker": cases["docker"]}, "--check")
        assert bakery.ssh("ctr -n k8s.io images ls -q; ctr -n k8s.io content ls -q") == before
        ran = play(bakery, cases)
        ran.seen = bakery.ssh("iptables -L OUTPUT -v -x -n | awk 'NR > 2 {print $1}'")
        bakery.ssh("timeout 5 bash -c ': < /dev/tcp/10.213.0.1/5000' || true")
        assert bakery.ssh("iptables -L OUTPUT -v -x -n | awk 'NR == 3 {print $1}'") != "0\n", "the rule must count an attempt"
    finally:
        bakery.ssh("iptables -F OUTPUT; rm /root/there.tar")
    ran.answers["check"] = checked.answers["docker"]
    return ran


def test_an_archive_is_imported_without_any_connection(imported: Ran, bakery: Bakery) -> None:
    digest = driverimage.build("standin").config_digest
    for case in ("on the node", "docker", "oci, by digest"):
        assert imported.answers[case]["changed"], imported.answers[case]
        assert imported.answers[case]["config_digest"] == digest
    assert imported.answers["again"]["changed"] is False
    assert imported.seen == "0\n0\n"
    listed = bakery.ssh("ctr -n k8s.io images ls -q").split()
    assert [name for name in listed if "import" in name] == []
    assert sum(name.startswith("nowhere.example.com/") for name in listed) == 3
    assert bakery.ssh("find /root /tmp /var/tmp /run -name 'image.tar'") == ""


def test_in_check_mode_nothing_is_imported(imported: Ran) -> None:
    assert imported.answers["check"]["image_wanted"] is True
    assert imported.answers["check"]["changed"] is True


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("other", "it holds nowhere.example.com/other/"),
        ("other, docker", "it holds nowhere.example.com/other/"),
        ("cut off", "is truncated"),
        ("not there", "is not on the controller"),
        ("not on the node", "it cannot be read on this machine"),
    ],
)
def test_an_archive_of_something_else_is_refused(imported: Ran, case: str, said: str) -> None:
    code, message = imported.failure(case)
    assert (code, said in message) == ("image_archive", True), message


def test_the_role_passes_login_and_authority_on_and_shows_neither(
    bakery: Bakery, registries: tuple[SecureRegistry, SecureRegistry]
) -> None:
    """With an image that does not know `build-only`, so that the role ends right after the pull."""
    basic = registries[0]
    variables = {
        "nvidia_prebake_image": basic.reference(bakery.reference("standin-no-build-only")),
        "nvidia_prebake_registry_username": basic.username,
        "nvidia_prebake_registry_password": basic.password,
        "nvidia_prebake_registry_ca": basic.ca.read_text(),
    }
    done = host.run([*bakery.argv(variables), "-vvv"], timeout_s=300, check=False, env=ENVIRONMENT)
    out = " ".join((done.stdout + done.stderr).split())
    assert "does not know the action build-only" in out
    assert "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER" in out
    assert basic.password.split("\\")[-1][:16] not in out
