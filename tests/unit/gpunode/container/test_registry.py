"""Login, authority, plain HTTP and mirrors: which options are refused before any pull, and how the others are passed on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.registry import ImageSource, hosts_file, source_from
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import InputError

from tests.kit.values import DATA

AUTHORITY = (DATA / "tls/authority.pem").read_text(encoding="utf-8")
SECRET = "swordfish"


def source(**options: Any) -> ImageSource:
    return source_from(
        {f"registry_{name}" if name in ("username", "password", "ca", "plain_http") else name: v for name, v in options.items()}
    )


def test_empty_options_are_none() -> None:
    assert source(username="", password=None, ca="", plain_http=False, image_archive="", hosts_dir="/x") == ImageSource("/x")


def test_a_password_is_not_shown() -> None:
    assert SECRET not in repr(source(username="u", password=SECRET))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param({"username": "u"}, "registry_password: registry_username is set without it", id="no password"),
        pytest.param({"password": SECRET}, "registry_username: registry_password is set without it", id="no user"),
        pytest.param({"username": "u:v", "password": SECRET}, "registry_username: ", id="a colon"),
        pytest.param({"username": "u\n", "password": SECRET}, "registry_username: ", id="a line break in the name"),
        pytest.param({"username": "u", "password": SECRET + "\n" + SECRET}, "registry_password: .*_json_key_base64", id="two lines"),
        pytest.param({"username": "u", "password": SECRET + "\x03"}, "registry_password: ", id="what a terminal takes for a signal"),
        pytest.param({"username": "u", "password": SECRET * 500}, "longer than 4094 bytes", id="too long"),
        pytest.param({"ca": "ca.pem"}, "registry_ca: the given text is not the PEM certificate of", id="a name of a file"),
        pytest.param({"ca": AUTHORITY[:200]}, "registry_ca: ", id="cut off"),
        pytest.param({"ca": AUTHORITY + "-----BEGIN PRIVATE KEY-----\n"}, "it contains a private key", id="a key"),
        pytest.param({"image_archive": "image.tar"}, "'image.tar' is not an absolute path", id="relative archive"),
    ],
)
def test_what_cannot_be_is_refused_without_showing_the_password(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        source(**options)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("given", ["text", "file"])
def test_an_authority_is_trusted_besides_the_machines_own_and_nothing_stays(tmp_path: Path, given: str) -> None:
    file = tmp_path / "ca.pem"
    file.write_text(AUTHORITY)
    with source(ca=AUTHORITY if given == "text" else str(file)).trust() as environment:
        assert list(environment) == ["SSL_CERT_DIR"]
        folders = environment["SSL_CERT_DIR"].split(":")
        assert folders[0] == "/etc/ssl/certs"
        (kept,) = Path(folders[-1]).iterdir()
        assert kept.read_text().strip() == AUTHORITY.strip()
        assert Path(folders[-1]).stat().st_mode & 0o777 == 0o700
    assert not Path(folders[-1]).exists()


def test_folders_of_certificates_that_were_set_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "SSL_CERT_DIR", "/srv/cas")
    with source(ca=AUTHORITY).trust() as environment:
        assert environment["SSL_CERT_DIR"].startswith("/srv/cas:/")


@pytest.mark.parametrize("text", [None, "no certificate\n"], ids=["missing", "something else"])
def test_a_file_that_is_no_authority_is_refused_only_when_it_is_needed(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "ca.pem"
    if text:
        file.write_text(text)
    asked = source(ca=str(file))
    with pytest.raises(InputError, match=f"registry_ca: the file {file} on this machine"), asked.trust():
        pass


@pytest.mark.parametrize(
    ("folder", "found"),
    [
        ("registry.lab:5000", True),
        ("registry.lab_5000_", True),
        ("_default", True),
        ("registry.lab", False),
        ("other.lab:5000", False),
    ],
)
def test_finds_the_hosts_file_as_containerd_does(tmp_path: Path, folder: str, found: bool) -> None:
    (tmp_path / folder).mkdir()
    file = tmp_path / folder / "hosts.toml"
    file.touch()
    assert hosts_file(str(tmp_path), "registry.lab:5000") == (file if found else None)


def test_the_first_folder_counts_also_without_a_file(tmp_path: Path) -> None:
    (tmp_path / "registry.lab").mkdir()
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default/hosts.toml").touch()
    assert hosts_file(str(tmp_path), "registry.lab") is None
    assert hosts_file("", "registry.lab") is None


@pytest.mark.parametrize(
    ("text", "contradicts"),
    [
        ('server = "https://x"\n', True),
        ("  server='https://x'\n", True),
        ('server = "http://x"\n', False),
        ('# server = "https://x"\n[host."https://mirror"]\n', False),
    ],
)
def test_plain_http_must_not_contradict_the_hosts_folder(tmp_path: Path, text: str, contradicts: bool) -> None:
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default/hosts.toml").write_text(text)
    ImageSource(str(tmp_path)).check_hosts("x/y")
    asked = ImageSource(str(tmp_path), plain_http=True)
    if contradicts:
        with pytest.raises(InputError, match="says that this registry uses https"):
            asked.check_hosts("x/y")
    else:
        asked.check_hosts("x/y")
