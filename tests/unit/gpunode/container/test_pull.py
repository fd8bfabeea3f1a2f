"""Fetching the driver image: from a registry with login, own authority or mirrors, or from an archive."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container import reference
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.containerd import Containerd
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.pull import DEFAULT_TRIES, Tries, ensure_image
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.container.registry import ImageSource
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.errors import DeadlineError, GpuNodeError, ImageError, InputError
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.deadline import Deadline

from tests.kit import archives
from tests.kit.node import FakeNode
from tests.kit.reply import Reply
from tests.kit.values import CONFIG_DIGEST, DATA, IMAGE, digest

MIRROR = IMAGE.replace("registry.lab:5000", "mirror.local")
UNREACHABLE = Reply(1, err='ctr: failed to do request: Head "https://registry.lab:5000": dial tcp 10.0.0.1:5000: i/o timeout\n')
AUTHORITY = (DATA / "tls/authority.pem").read_text(encoding="utf-8")
SECRET = "pass word"
LOGIN = ImageSource("", username="puller", password=SECRET)


def ensure(
    node: FakeNode,
    pull: str | None = None,
    total_s: float = 600,
    source: ImageSource = ImageSource(""),  # noqa: B008 - frozen
    tries: Tries = DEFAULT_TRIES,
    image: str = IMAGE,
) -> bool:
    wanted = reference.wanted(image, pull)
    return ensure_image(Containerd(node), wanted, Deadline(total_s, node.clock, node.clock.sleep), source, tries)


def pulls(node: FakeNode) -> list[str]:
    return [argv[-1] for argv in node.calls if argv[3:5] == ["images", "pull"] and argv[-1] != "--help"]


def pull_of(node: FakeNode) -> tuple[list[str], str | None, dict[str, str]]:
    """Command line, typed line and environment of the one pull."""
    (found,) = [i for i, argv in enumerate(node.calls) if argv[3:5] == ["images", "pull"] and argv[-1] != "--help"]
    return node.calls[found], node.typed[found], node.environments[found]


# --- registries ------------------------------------------------------------------------------------------------------


def test_an_image_that_is_here_is_not_pulled(node: FakeNode) -> None:
    assert not ensure(node)
    assert pulls(node) == []


def test_what_may_pass_is_tried_three_times(node: FakeNode) -> None:
    node.images.clear()
    node.pulls = [UNREACHABLE, UNREACHABLE]
    assert ensure(node)
    assert pulls(node) == [IMAGE] * 3


def test_three_tries_are_all(node: FakeNode) -> None:
    node.images.clear()
    node.pulls = [UNREACHABLE] * 9
    with pytest.raises(ImageError, match=r"after 3 tries: .*i/o timeout") as caught:
        ensure(node)
    assert caught.value.code == "image_unreachable"
    assert len(pulls(node)) == 3


def test_a_registry_that_says_nothing_is_called_that_and_not_by_ctrs_progress(node: FakeNode) -> None:
    node.images.clear()
    node.pulls = [Reply(out="resolving\nelapsed: 11.8s  total: 0.0 B (0.0 B/s)\n", seconds=500)] * 9
    with pytest.raises(ImageError, match=r"after 3 tries: the pull did not end within 120 s\. Check that this machine") as caught:
        ensure(node)
    assert caught.value.code == "image_unreachable"


@pytest.mark.parametrize(
    "answer",
    [
        f'failed to resolve reference "{IMAGE}": {IMAGE}: not found',
        "unexpected status from HEAD request to https://registry.lab:5000/v2/x/manifests/1: 404 Not Found",
        "403 Forbidden",
        "pull access denied, repository does not exist or may require authorization",
        "no match for platform in manifest: not found",
    ],
)
def test_a_registry_that_says_no_is_asked_once(node: FakeNode, answer: str) -> None:
    node.images.clear()
    node.pulls = [Reply(1, err=f"ctr: {answer}\n")] * 3
    with pytest.raises(ImageError, match="was not tried again") as caught:
        ensure(node)
    assert (caught.value.code, len(pulls(node))) == ("image_refused", 1)


@pytest.mark.parametrize(
    "answer",
    [
        f'failed to resolve reference "{IMAGE}": failed to do request: Head "https://x": dial tcp: lookup x on 10.0.0.2:53: no such host',
        f'failed to resolve reference "{IMAGE}": failed to do request: Head "https://x": dial tcp: lookup x: not found: server misbehaving',
        "content digest sha256:0123: not found",
    ],
)
def test_what_is_not_the_registrys_no_is_tried_again(node: FakeNode, answer: str) -> None:
    node.images.clear()
    node.pulls = [Reply(1, err=f"ctr: {answer}\n")] * 2
    assert ensure(node)
    assert len(pulls(node)) == 3


def test_a_full_filesystem_is_no_matter_of_the_reference(node: FakeNode) -> None:
    node.images.clear()
    node.pulls = [Reply(1, err="ctr: write /var/lib/containerd/x/ingest/1/data: no space left on device\n")] * 3
    with pytest.raises(ImageError, match=r"filesystem is full.*\(/var/lib/containerd") as caught:
        ensure(node)
    assert (caught.value.code, len(pulls(node))) == ("no_space", 1)
    assert "reference" not in str(caught.value)


@pytest.mark.parametrize(
    ("tries", "said"),
    [
        (Tries(0), "nvidia_prebake_pull_tries: 0"),
        (Tries(-1), "nvidia_prebake_pull_tries: -1"),
        (Tries(delay_s=-10), "nvidia_prebake_pull_delay_s: -10"),
        (Tries(delay_s=float("inf")), "nvidia_prebake_pull_delay_s: inf"),
        (Tries(timeout_s=0), "nvidia_prebake_pull_timeout_s: 0"),
        (Tries(timeout_s=float("nan")), "nvidia_prebake_pull_timeout_s: nan"),
    ],
)
def test_tries_that_cannot_be_are_a_mistake(node: FakeNode, tries: Tries, said: str) -> None:
    node.images.clear()
    with pytest.raises(InputError, match=said):
        ensure(node, tries=tries)
    assert pulls(node) == []


def test_a_pull_is_cut_to_the_deadline(node: FakeNode) -> None:
    node.images.clear()
    node.pulls = [Reply(seconds=1000)] * 3
    with pytest.raises((ImageError, DeadlineError)):
        ensure(node, total_s=150)
    assert node.clock.now <= 1150


def test_another_pull_reference_ends_up_under_the_canonical_name(node: FakeNode) -> None:
    node.images.clear()
    assert ensure(node, MIRROR)
    assert pulls(node) == [MIRROR]
    assert node.images[IMAGE] == node.images[MIRROR]
    assert node.called("ctr", "-n", "k8s.io", "images", "tag") == [["ctr", "-n", "k8s.io", "images", "tag", "--force", MIRROR, IMAGE]]


def test_what_is_here_under_the_pull_reference_is_only_tagged(node: FakeNode) -> None:
    node.images.clear()
    node.add_image(MIRROR)
    assert ensure(node, MIRROR)
    assert pulls(node) == []
    assert IMAGE in node.images


def test_a_login_is_typed_and_on_no_command_line(node: FakeNode) -> None:
    node.images.clear()
    assert ensure(node, source=LOGIN)
    argv, typed, environment = pull_of(node)
    assert argv == ["ctr", "-n", "k8s.io", "images", "pull", "--user", "puller", IMAGE]
    assert typed == SECRET
    assert SECRET not in str([node.calls, environment])


def test_without_a_login_nothing_is_typed(node: FakeNode) -> None:
    node.images.clear()
    ensure(node, source=ImageSource("", plain_http=True))
    argv, typed, environment = pull_of(node)
    assert argv == ["ctr", "-n", "k8s.io", "images", "pull", "--plain-http", IMAGE]
    assert (typed, environment) == (None, {})


def test_a_ctr_that_would_leave_the_pull_to_the_daemon_is_told_not_to(node: FakeNode) -> None:
    node.images.clear()
    node.help += "   --local        Fetch content from local client rather than using transfer service\n"
    ensure(node)
    assert pull_of(node)[0] == ["ctr", "-n", "k8s.io", "images", "pull", "--local", IMAGE]


def test_login_and_mirrors_go_together(node: FakeNode, tmp_path: Path) -> None:
    node.images.clear()
    ensure(node, source=ImageSource(str(tmp_path), username="puller", password=SECRET))
    assert pull_of(node)[0][5:] == ["--hosts-dir", str(tmp_path), "--user", "puller", IMAGE]


X509 = 'failed to do request: Head "https://registry.lab:5000/v2/x": x509: certificate signed by unknown authority'
STATUS = "pulling from host registry.lab:5000 failed with status code [manifests 1]: "


@pytest.mark.parametrize(
    ("source", "answer", "code", "said"),
    [
        pytest.param(ImageSource(""), STATUS + "401 Unauthorized", "registry_login", "none is given", id="no login"),
        pytest.param(LOGIN, STATUS + "401 Unauthorized", "registry_login", "the login of puller", id="wrong login"),
        pytest.param(
            LOGIN,
            "failed to authorize: failed to fetch oauth token: unexpected status: 401 Unauthorized",
            "registry_login",
            "the login of puller",
            id="wrong login at a token server",
        ),
        pytest.param(LOGIN, STATUS + "403 Forbidden", "image_refused", "whether puller may read it", id="login without permission"),
        pytest.param(
            LOGIN, 'failed to do request: Head "https://x/v2/y": Forbidden', "registry_proxy", "A proxy on the way", id="a proxy forbids"
        ),
        pytest.param(
            LOGIN,
            "failed to extract layer sha256:0: mount callback failed: permission denied: unknown",
            "image_unpack",
            "cannot write the image on this machine",
            id="no permission on this machine",
        ),
        pytest.param(ImageSource(""), X509, "registry_certificate", "set registry_ca to the certificate", id="unknown authority"),
        pytest.param(ImageSource("", ca=AUTHORITY), X509, "registry_certificate", "did not issue it", id="another authority"),
        pytest.param(
            ImageSource(""),
            "x509: certificate is valid for a.example, not registry.lab",
            "registry_certificate",
            "not trusted here",
            id="another name",
        ),
        pytest.param(
            ImageSource(""),
            "http: server gave HTTP response to HTTPS client",
            "registry_scheme",
            "contacted by HTTPS and seems to use plain HTTP: set registry_plain_http",
            id="https to http",
        ),
        pytest.param(
            ImageSource("", plain_http=True),
            STATUS + "400 Bad Request",
            "registry_scheme",
            "contacted by plain HTTP and seems to use HTTPS: leave registry_plain_http off",
            id="http to https",
        ),
    ],
)
def test_what_cannot_succeed_has_a_code_and_is_asked_once(node: FakeNode, source: ImageSource, answer: str, code: str, said: str) -> None:
    node.images.clear()
    node.pulls = [Reply(1, out="Password: \n", err=f'time=x level=info msg="trying next host"\nctr: {answer}\n')] * 3
    with pytest.raises(ImageError, match=re.escape(said)) as caught:
        ensure(node, source=source)
    assert (caught.value.code, len(pulls(node))) == (code, 1)
    assert SECRET not in f"{caught.value} {caught.value.details} {caught.value.__cause__}"


@pytest.mark.parametrize(
    "answer",
    [
        "failed to authorize: failed to fetch oauth token: unexpected status: 503 Service Unavailable",
        'failed to authorize: failed to fetch anonymous token: Get "https://x/token": dial tcp 10.0.0.1:443: connect: connection refused',
        'failed to authorize: failed to fetch anonymous token: Get "https://x/token": EOF',
        "failed to copy: httpReadSeeker: failed open: unexpected status code https://x/v2/y/blobs/sha256:0: 401 Unauthorized",
        STATUS + "429 Too Many Requests",
        STATUS + "400 Bad Request",
    ],
)
def test_a_token_server_or_registry_that_is_away_is_asked_again(node: FakeNode, answer: str) -> None:
    node.images.clear()
    node.pulls = [Reply(1, err=f"ctr: {answer}\n")] * 2
    assert ensure(node, source=LOGIN)
    assert len(pulls(node)) == 3


def test_plain_http_against_the_hosts_folder_is_refused_before_a_pull(node: FakeNode, tmp_path: Path) -> None:
    node.images.clear()
    file = tmp_path / "registry.lab:5000/hosts.toml"
    file.parent.mkdir()
    file.write_text('server = "https://registry.lab:5000"\n')
    with pytest.raises(InputError, match=f"registry_plain_http: .*{re.escape(str(file))} says"):
        ensure(node, source=ImageSource(str(tmp_path), plain_http=True))
    assert pulls(node) == []


# --- archives --------------------------------------------------------------------------------------------------------


def archived(tmp_path: Path, **options: str) -> ImageSource:
    return ImageSource("", archive=str(archives.layout(tmp_path / "image.tar", IMAGE, **options)))


@pytest.mark.parametrize("named", [[], [IMAGE]], ids=["by digest only", "by name too"])
@pytest.mark.parametrize("make", [archives.layout, archives.docker], ids=["layout", "docker"])
def test_an_archive_ends_up_under_the_canonical_name_without_a_registry(
    node: FakeNode, tmp_path: Path, named: list[str], make: Callable[[Path, str], Path]
) -> None:
    node.images.clear()
    node.archive_names = named
    source = ImageSource("", archive=str(make(tmp_path / "image.tar", IMAGE)))
    assert ensure(node, source=source)
    target, documents = archives.imported(Path(source.archive))
    assert node.images == {IMAGE: target}
    assert Containerd(node).config_behind(target, "x86_64") == documents[target]["config"]["digest"]
    assert pulls(node) == []
    assert not ensure(node, source=source), "the second time nothing is done"


def test_an_archive_is_not_touched_where_the_image_is_here(node: FakeNode) -> None:
    assert not ensure(node, source=ImageSource("", archive="/nowhere.tar"))


def test_an_archive_of_something_else_is_refused_before_the_import(node: FakeNode, tmp_path: Path) -> None:
    node.images.clear()
    source = ImageSource("", archive=str(archives.layout(tmp_path / "image.tar", MIRROR)))
    with pytest.raises(ImageError, match=f"holds {MIRROR} with digest .*, but {IMAGE} is wanted") as caught:
        ensure(node, source=source)
    assert caught.value.code == "image_archive"
    assert not [argv for argv in node.calls if "import" in argv or "pull" in argv]


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        pytest.param(Reply(1, err="ctr: failed to extract layer: unexpected EOF\n"), "image_archive", id="layer"),
        pytest.param(Reply(1, err="ctr: write /var/lib/containerd/x: no space left on device\n"), "no_space", id="full"),
        pytest.param(Reply(seconds=1e5), "image_archive", id="hangs"),
    ],
)
def test_an_import_that_fails_leaves_no_image_and_asks_no_registry(node: FakeNode, tmp_path: Path, reply: Reply, code: str) -> None:
    node.images.clear()
    node.add_image(MIRROR)
    before = dict(node.images)
    node.archive_names = [IMAGE, CONFIG_DIGEST]
    node.imports = [reply]
    with pytest.raises(GpuNodeError, match=r"image archive /\S+ cannot be imported") as caught:
        ensure(node, source=archived(tmp_path))
    assert caught.value.code == code
    assert node.images == before
    assert pulls(node) == []


# --- a pin is a pin --------------------------------------------------------------------------------------------------

PIN, ANOTHER = digest("the image that is pinned"), digest("another image")
PINNED = f"{IMAGE}@{PIN}"


def test_a_pinned_image_is_pulled_from_a_mirror_by_its_digest(node: FakeNode) -> None:
    node.images.clear()
    assert ensure(node, MIRROR, image=PINNED)
    by = f"{MIRROR.rpartition(':')[0]}@{PIN}"
    assert pulls(node) == [by]
    assert node.images == {by: PIN, PINNED: PIN}


@pytest.mark.parametrize(
    ("image", "pull"),
    [(PINNED, None), (PINNED, MIRROR), (IMAGE, f"{MIRROR}@{PIN}"), (IMAGE, f"{MIRROR.rpartition(':')[0]}@{PIN}")],
    ids=["the image", "from a mirror", "the mirror's", "the mirror's, without a tag"],
)
def test_what_a_registry_serves_instead_is_not_tagged(node: FakeNode, image: str, pull: str | None) -> None:
    node.images = {"other/name:1": ANOTHER}
    node.served = ANOTHER
    with pytest.raises(ImageError, match=f"{PIN} is asked for, and the registry or a mirror served {ANOTHER}") as caught:
        ensure(node, pull, image=image)
    assert caught.value.code == "image_mismatch"
    assert node.images == {"other/name:1": ANOTHER}


@pytest.mark.parametrize(("image", "pull"), [(PINNED, None), (IMAGE, f"{MIRROR}@{PIN}")], ids=["the image", "the mirror's"])
def test_a_name_that_is_here_is_not_believed(node: FakeNode, image: str, pull: str | None) -> None:
    node.images = {image: ANOTHER}
    if pull:
        node.images[pull] = ANOTHER
    assert ensure(node, pull, image=image)
    assert node.images[image] == PIN
    assert not ensure(node, pull, image=image)


def test_two_pins_are_none() -> None:
    with pytest.raises(InputError, match="has another digest than the image"):
        reference.wanted(PINNED, f"{MIRROR}@{ANOTHER}")
    assert reference.wanted(PINNED, f"{MIRROR}@{PIN}").pin == PIN


@pytest.mark.parametrize("make", [archives.layout, archives.docker], ids=["layout", "docker"])
def test_an_import_of_something_else_than_was_checked_is_taken_back(node: FakeNode, tmp_path: Path, make: Callable[..., Path]) -> None:
    """As where somebody has replaced the archive after the check."""
    node.images = {"other/name:1": ANOTHER}
    node.archive_names = [IMAGE, "new/name:1"]
    node.archive_holds = str(make(tmp_path / "other.tar", IMAGE, arch="arm64"))
    source = ImageSource("", archive=str(make(tmp_path / "image.tar", IMAGE)))
    with pytest.raises(ImageError, match="another image than the one that was checked") as caught:
        ensure(node, source=source)
    assert caught.value.code == "image_mismatch"
    assert node.images == {"other/name:1": ANOTHER}


def test_what_a_killed_import_left_is_not_taken_for_the_result(node: FakeNode, tmp_path: Path) -> None:
    left = f"gpu-prebake-import@{digest('of another archive')}"
    node.images = {left: digest("of another archive")}
    source = archived(tmp_path)
    assert ensure(node, source=source)
    assert node.images == {IMAGE: archives.imported(Path(source.archive))[0]}


def test_a_name_in_a_pinned_archive_does_not_take_anothers_place(node: FakeNode, tmp_path: Path) -> None:
    path = archives.layout(tmp_path / "image.tar", "registry.k8s.io/pause:3.9")
    pinned = f"{IMAGE}@{archives.imported(path)[0]}"
    node.images = {"registry.k8s.io/pause:3.9": ANOTHER}
    with pytest.raises(ImageError, match="which is another image's name here") as caught:
        ensure(node, image=pinned, source=ImageSource("", archive=str(path)))
    assert caught.value.code == "image_archive"
    assert node.images == {"registry.k8s.io/pause:3.9": ANOTHER}
