"""The table of options: the only place where an option's name, type, default, choices and description are written by hand.

Read from it: the modules' argument_spec (module_utils/options.py), the defaults of the library's requests (``Policy``, ``BakeRequest``
and so on) and the roles' variables. ``make docs`` writes from it the roles' defaults/main.yml, the options in their
meta/argument_specs.yml and README.md, and those in each module's DOCUMENTATION. ``make check`` compares them.

Descriptions are marked up as Ansible's are: ``V(value)``, ``C(code)``, ``O(option)`` and ``O(option=value)``. ``O`` names the module's
option; in a role's documents it becomes the role's variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from . import paths


class Option(NamedTuple):
    """One option of a module, a role or a playbook.

    ``says`` describes it, a paragraph each. ``required`` is the module's; ``needed`` has the roles' variables that must be set, each with
    the case in which it must ("" for always, and then it has no default). ``variables`` are the variables of roles that are passed on to
    it, ``fields`` the fields of the library's requests that it becomes. ``default`` None means that there is none. ``secret`` is Ansible's
    ``no_log``: False says that an option with a name such as ``signing_key`` holds no secret, None leaves that to Ansible. ``since`` is the
    version that introduced the option, if the option is younger than what it belongs to. ``controller`` says that the option names a file
    on the controller, or decides whether another one does: a role takes it once, before it asks a node anything.

    It is a NamedTuple because every start of a boot imports this file, and a dataclass takes longer to define.
    """

    name: str
    says: tuple[str, ...]
    type: str = "str"
    default: Any = None
    choices: tuple[str, ...] = ()
    elements: str = ""
    required: bool = False
    secret: bool | None = None
    variables: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    since: str = ""
    controller: bool = False
    needed: Mapping[str, str] = MappingProxyType({})

    def variable(self, role: str) -> str:
        """The role's variable that sets the option; the option's own name if there is none."""
        return next((name for name in self.variables if name.startswith(f"{role}_")), self.name)

    def default_of(self, variable: str) -> Any:
        """The default of a role's variable; None if it has none."""
        return None if self.needed.get(variable) == "" else self.default


Table = dict[str, Option]


def _table(*options: Option) -> Table:
    return {option.name: option for option in options}


# --- the driver image -------------------------------------------------------------------------------------------------

IMAGE = _table(
    # Raw here and below: a number then reaches the library, which says what is wrong with it. As text, 535.230 would arrive as "535.23".
    Option(
        "image",
        (
            "Canonical reference of the driver image, by tag or digest.",
            "There is no default image: a bake and a boot need one.",
        ),
        type="raw",
        default="",
        required=True,
        variables=("nvidia_prebake_image", "gpu_boot_image"),
        needed={"nvidia_prebake_image": "for a bake", "gpu_boot_image": ""},
        fields=("DriverWanted.image",),
    ),
    Option(
        "pull_image",
        (
            "Reference to pull the driver image by, if the registry has it under another name. The image is then tagged with O(image).",
            "By default, the image is pulled by O(image).",
        ),
        type="raw",
        default="",
        variables=("nvidia_prebake_pull_image", "gpu_boot_pull_image"),
        fields=("DriverWanted.pull",),
    ),
    Option(
        "kind",
        (
            "Driver kind, V(cuda) or V(grid).",
            "By default, it is taken from the name of O(image). Set it only if that name does not say it.",
        ),
        default="",
        variables=("nvidia_prebake_driver_kind", "gpu_boot_driver_kind"),
        fields=("DriverWanted.kind",),
    ),
    Option(
        "version",
        (
            "Driver version, in quotes. Without quotes, YAML reads it as a number and may drop digits.",
            "By default, it is taken from the tag of O(image). Set it only if that tag does not say it.",
        ),
        type="raw",
        default="",
        variables=("nvidia_prebake_driver_version", "gpu_boot_driver_version"),
        fields=("DriverWanted.version",),
    ),
)

SOURCE = _table(
    Option(
        "hosts_dir",
        (
            "Folder on the machine in which containerd's registry hosts are configured, mirrors among them. It is used as it is.",
            "If this is empty, no such folder is used.",
        ),
        default="/etc/containerd/certs.d",
        variables=("nvidia_prebake_hosts_dir", "gpu_boot_hosts_dir"),
        fields=("ImageSource.hosts_dir",),
    ),
    Option(
        "registry_username",
        (
            "User of the registry that the image is pulled from. O(registry_password) is then needed too.",
            "The login is given to every host that asks for one, also to a mirror from O(hosts_dir).",
            "By default, there is no login.",
        ),
        default="",
        variables=("nvidia_prebake_registry_username", "gpu_boot_registry_username"),
        fields=("ImageSource.username",),
    ),
    Option(
        "registry_password",
        (
            "Password or token of O(registry_username), in one line of at most 4094 bytes. Keep it in a vault.",
            "It appears on no command line of the machine, in no file and in no result.",
        ),
        default="",
        secret=True,
        variables=("nvidia_prebake_registry_password", "gpu_boot_registry_password"),
        fields=("ImageSource.password",),
    ),
    Option(
        "registry_ca",
        (
            "Certificate of the authority that issued the registry's certificate, as PEM text, or the absolute path of a PEM file on the "
            "machine.",
            "It is trusted for this pull only, in addition to the authorities that the machine trusts.",
            "By default, only those are trusted.",
        ),
        default="",
        variables=("nvidia_prebake_registry_ca", "gpu_boot_registry_ca"),
        fields=("ImageSource.ca",),
    ),
    Option(
        "registry_plain_http",
        ("Whether to talk plain HTTP to the registry. Whoever listens on the network can then read the login and the image.",),
        type="bool",
        default=False,
        variables=("nvidia_prebake_registry_plain_http", "gpu_boot_registry_plain_http"),
        fields=("ImageSource.plain_http",),
    ),
    Option(
        "image_archive",
        (
            "File that holds the driver image: a docker or OCI archive, not compressed, with exactly this image under its canonical "
            "reference or under the reference to pull by. No registry is asked.",
            "The file is on the controller unless O(image_archive_remote_src) is set. It is copied to the machine only if the image is not "
            "there yet, and the copy is removed afterwards.",
            "By default, the image is pulled from a registry.",
        ),
        default="",
        variables=("nvidia_prebake_image_archive", "gpu_boot_image_archive"),
        fields=("ImageSource.archive",),
        controller=True,
    ),
    Option(
        "image_archive_remote_src",
        ("Whether O(image_archive) is already on the machine. It is then used where it is, and stays there.",),
        type="bool",
        default=False,
        variables=("nvidia_prebake_image_archive_remote_src", "gpu_boot_image_archive_remote_src"),
        controller=True,
    ),
)

PULL = _table(
    Option(
        "tries",
        (
            "Number of tries to pull the driver image, at least one.",
            "A failure that another try cannot mend, such as a registry's refusal, is not tried again. An archive is imported once.",
        ),
        type="int",
        default=3,
        variables=("nvidia_prebake_pull_tries",),
        fields=("Tries.number",),
    ),
    Option(
        "delay_s",
        ("Seconds to wait between two tries to pull.",),
        type="float",
        default=10.0,
        variables=("nvidia_prebake_pull_delay_s",),
        fields=("Tries.delay_s",),
    ),
    Option(
        "timeout_s",
        ("Seconds that one try to pull, or the import of an archive, may take.",),
        type="float",
        default=120.0,
        variables=("nvidia_prebake_pull_timeout_s",),
        fields=("Tries.timeout_s",),
    ),
)

# --- what several subjects have ---------------------------------------------------------------------------------------

_FLAVOURS = ("any", "open", "proprietary")

_MARKER_PATH = Option(
    "marker_path",
    (
        "Absolute path on the machine at which the driver container writes its marker. Bake, seal, boot and removal need the same one.",
        "The default is where the aks-gpu driver images write it.",
    ),
    default="/opt/azure/aks-gpu/dkms-marker",
    variables=("nvidia_prebake_marker_path", "gpu_boot_marker_path", "gpu_remove_marker_path"),
    fields=("BakeRequest.marker_path", "SealRequest.marker_path", "RemoveRequest.marker_path"),
)

_RELEASE_NOTES = Option(
    "release_notes",
    (
        "Absolute path of a file in the image that gets one line for each layer that is baked.",
        "The next bake replaces these lines, and a removal of everything deletes them. Other lines of the file stay.",
    ),
    default=f"/{paths.RELEASE_NOTES}",
    variables=("nvidia_prebake_release_notes", "gpu_remove_release_notes"),
    fields=("BakeRequest.release_notes", "RemoveRequest.release_notes"),
)

_RESTART_CONTAINERD = Option(
    "restart_containerd",
    (
        "What to do if containerd's configuration has changed. V(auto) restarts containerd, once.",
        "V(never) does not restart it and reports that a restart is needed.",
    ),
    default="auto",
    choices=("auto", "never"),
    variables=("gpu_boot_restart_containerd", "gpu_remove_restart_containerd"),
    fields=("Policy.restart_containerd", "RemoveRequest.restart_containerd"),
)

_IN_USE = Option(
    "in_use",
    (
        "What to do if the driver is in use and a module therefore cannot be unloaded. V(refuse) fails, names who uses it, and removes "
        "nothing.",
        "V(until_reboot) removes the files all the same. The module stays until the node reboots, and work that uses it may fail until "
        "then.",
    ),
    default="refuse",
    choices=("refuse", "until_reboot"),
    variables=("gpu_remove_in_use",),
    fields=("RemoveRequest.in_use",),
)

# --- the bake ---------------------------------------------------------------------------------------------------------

SWITCH = _table(
    Option(
        "enabled",
        (
            "Whether to bake. If this is not set, nothing is baked unless O(feature_flags) asks for it.",
            "The commands C(gpu-prebake bake) and C(gpu-prebake seal) ask for it too, if this is not set.",
        ),
        type="bool",
        variables=("nvidia_prebake_enabled",),
    ),
    Option(
        "feature_flags",
        (
            "Feature flags, as a list, or as text that is split at commas and white space. The exact token V(NVIDIA_CUDA_PREBAKE) among "
            "them also turns the bake on.",
            "By default, they are taken from the environment variable E(FEATURE_FLAGS) of the controller.",
        ),
        type="raw",  # a string or a list; Ansible would turn a list into one text with brackets
        default="{{ lookup('ansible.builtin.env', 'FEATURE_FLAGS') }}",
        variables=("nvidia_prebake_feature_flags",),
    ),
)

BAKE = _table(
    Option(
        "kernels",
        (
            "Kernels to bake for. Each needs its headers, which the role nvidia_prebake installs.",
            "V(newest) is the kernel that the boot loader (GRUB) takes by default. If several kernels are installed and that one cannot be "
            "determined, the bake fails. If its kernel flavour (such as V(azure)) is not that of the running kernel, the bake warns.",
            "V(all) means every installed kernel. Otherwise give a kernel release as C(uname -r) prints it, or a list of releases.",
            "With O(mode=in_place), only one kernel is possible.",
        ),
        type="raw",
        default="newest",
        variables=("nvidia_prebake_kernels",),
        fields=("BakeRequest.kernels",),
    ),
    Option(
        "flavour",
        (
            "Kernel modules that the build must produce, V(open) or V(proprietary). V(any) accepts both.",
            "An unmodified driver image makes its own choice, so this does not select a flavour: if the build produced another one, the "
            "bake fails.",
        ),
        default="any",
        choices=_FLAVOURS,
        variables=("nvidia_prebake_flavour",),
        fields=("BakeRequest.flavour",),
    ),
    Option(
        "mode",
        (
            "How to bake. V(captured) does not change the image itself: the driver becomes an inert layer in a store that only root can "
            "enter.",
            "V(in_place) bakes in the same way, and then activates the layer in the image: the driver is live there. It is for images that "
            "serve GPU nodes only.",
        ),
        default="captured",
        choices=("captured", "in_place"),
        variables=("nvidia_prebake_mode",),
        fields=("BakeRequest.mode",),
    ),
    Option(
        "blacklist_nouveau",
        (
            "Whether to blacklist nouveau, by the file C(/etc/modprobe.d/gpu-prebake-nouveau.conf) in the image and in every initramfs; "
            "and Nova, the kernel's newer driver (C(nova_core)), by C(gpu-prebake-nova.conf).",
            "Nothing is written about a driver of which no installed kernel has a module, or which another file already blacklists.",
            "V(false) removes what an earlier bake wrote. The seal expects the image to be as this option says.",
        ),
        type="bool",
        default=True,
        variables=("nvidia_prebake_blacklist_nouveau",),
        fields=("BakeRequest.blacklist_nouveau",),
    ),
    _MARKER_PATH,
    Option(
        "min_free_mb",
        (
            "Space in MB that must be free before the bake, on each filesystem that the bake writes to. On C(/boot) and C(/tmp), 64 MB are "
            "enough.",
        ),
        type="int",
        # A full driver: image 0.5 GB unpacked and 0.25 GB packed, its copy in /opt/gpu 0.3 GB, build folder up to 0.8 GB, result 0.3 GB.
        default=3072,
        variables=("nvidia_prebake_min_free_mb",),
        fields=("BakeRequest.min_free_mb",),
    ),
)

TOOLS = _table(
    Option(
        "install_tools",
        ("Whether to install missing compile tools and kernel headers with apt. With V(false), the bake fails if any is missing.",),
        type="bool",
        default=True,
        variables=("nvidia_prebake_install_tools",),
    ),
)

SIGNING = _table(
    Option(
        "signing_key",
        (
            "Private key that signs every kernel module of the bake: the path of a PEM or DER file on the controller, or a C(pkcs11:) URI "
            "of a key in a token of the machine, such as V(pkcs11:token=fleet;object=modules). O(signing_certificate) is then needed too.",
            "A key file from the controller is on the machine only while the module runs, in memory, in a folder below C(/run) that only "
            "root can enter.",
            "By default, nothing is signed, and nodes that enforce module signatures refuse the modules.",
        ),
        default="",
        secret=False,  # a path or a URI, never the key itself
        variables=("nvidia_prebake_signing_key",),
        fields=("SigningKey.key",),
        controller=True,
    ),
    Option(
        "signing_certificate",
        ("X.509 certificate that belongs to O(signing_key), as the path of a PEM or DER file on the controller. Set both or neither.",),
        default="",
        variables=("nvidia_prebake_signing_certificate",),
        fields=("SigningKey.certificate",),
        controller=True,
    ),
    Option(
        "signing_pin",
        (
            "PIN of the token, or passphrase of the key. Keep it in a vault. V(file:) followed by an absolute path names a file on the "
            "machine that holds it.",
            "It appears in no argument of any program, and in no file except in memory.",
            "By default, there is none.",
        ),
        default="",
        secret=True,
        variables=("nvidia_prebake_signing_pin",),
        fields=("SigningKey.pin",),
    ),
    Option(
        "signing_remote_src",
        ("Whether the files of O(signing_key) and O(signing_certificate) are already on the machine. They are used there, and stay.",),
        type="bool",
        default=False,
        variables=("nvidia_prebake_signing_remote_src",),
        controller=True,
    ),
)

BUILD = _table(
    Option(
        "tries",
        (
            "Number of tries to build, for each kernel. A failure that another try cannot mend, such as a compile error or a full disk, is "
            "not tried again.",
        ),
        type="int",
        default=3,
        variables=("nvidia_prebake_tries",),
        fields=("BakeRequest.tries",),
    ),
    Option(
        "delay_s",
        ("Seconds to wait between two tries to build.",),
        type="float",
        default=10.0,
        variables=("nvidia_prebake_delay_s",),
        fields=("BakeRequest.delay_s",),
    ),
    Option(
        "try_s",
        ("Seconds that one try to build may take. After that, everything that runs in the driver container is killed.",),
        type="float",
        default=600.0,
        variables=("nvidia_prebake_try_s",),
        fields=("BakeRequest.try_s",),
    ),
    _RELEASE_NOTES,
)

BAKE_REPORT = _table(
    Option(
        "report_path",
        (
            "Absolute path of a file on the controller that gets the bake's report as JSON. The folder is created.",
            "Empty means no such file.",
        ),
        default="",
        variables=("nvidia_prebake_report_path",),
        controller=True,
    ),
)

# --- the seal ---------------------------------------------------------------------------------------------------------

SEAL = _table(
    Option(
        "root",
        (
            "Root filesystem of the image to seal. V(/) is the running system.",
            "Any other path is an image that is mounted there, also read-only. Its containerd is not asked, and nothing in it is run. The "
            "machine needs C(lsinitramfs) or C(lsinitrd) to read its initramfs images, and C(modinfo) if a layer is in place.",
        ),
        type="path",
        default="/",
        variables=("nvidia_prebake_seal_root",),
    ),
    IMAGE["image"]._replace(
        says=(
            "The value that the bake had. The seal refuses an image with a layer that was baked from another driver image, as after a "
            "change of this value that no bake has followed.",
            "It may be empty only where nothing need be baked.",
        ),
        required=False,
        variables=("nvidia_prebake_image",),
        since="0.2.0",
    ),
    IMAGE["pull_image"]._replace(
        says=("The value that the bake had. If it has a digest, the driver image in containerd must have it.",),
        variables=("nvidia_prebake_pull_image",),
        since="0.2.0",
    ),
    IMAGE["kind"]._replace(
        says=("The value that the bake had. The layers must be of this driver kind.",),
        variables=("nvidia_prebake_driver_kind",),
        since="0.2.0",
    ),
    IMAGE["version"]._replace(
        says=("The value that the bake had. The layers must be of this driver version.",),
        variables=("nvidia_prebake_driver_version",),
        since="0.2.0",
    ),
    BAKE["flavour"]._replace(
        says=(
            "The value that the bake had. The layers' modules must be V(open) or V(proprietary) as it says, and may be both with V(any).",
        ),
        fields=("SealRequest.flavour",),
        since="0.2.0",
    ),
    BAKE["mode"]._replace(
        says=("The value that the bake had. With V(captured) no layer may be live in the image, with V(in_place) the layer must be.",),
        fields=("SealRequest.mode",),
        since="0.2.0",
    ),
    Option(
        "signed",
        ("Whether the layers' modules must be signed. The role sets it if a signing key is given.",),
        type="bool",
        default=False,
        fields=("SealRequest.signed",),
        since="0.2.0",
    ),
    SIGNING["signing_certificate"]._replace(
        says=(
            "The value that the bake had. The seal refuses a layer whose modules were signed with the key of another certificate, as after "
            "a change of key that no bake has followed.",
        ),
        fields=("SealRequest.certificate",),
        since="0.2.0",
    ),
    SIGNING["signing_remote_src"]._replace(
        says=(
            "The value that the bake had. If the certificate was on the machine and is no longer there, the seal does not compare it, and "
            "says so.",
        ),
        since="0.2.0",
    ),
    Option(
        "signer",
        (
            "SHA-256 of the certificate whose key must have signed the layers' modules, in hexadecimal. Set automatically from "
            "O(signing_certificate) if that file is on the controller.",
        ),
        default="",
        fields=("SealRequest.signer",),
        since="0.2.0",
    ),
    BAKE["kernels"]._replace(
        says=(
            "Kernels that must have a layer, besides the kernel that the boot loader takes by default. Give the value that the bake had.",
            "V(newest) names no further kernel, V(all) every installed one. Otherwise give a kernel release as C(uname -r) prints it, or a "
            "list of releases.",
        ),
        fields=("SealRequest.kernels",),
    ),
    Option(
        "uncovered",
        (
            "What the seal does if the image can also boot a kernel that has no layer and that O(kernels) does not name. V(report) reports "
            "that kernel, V(fail) refuses the image.",
        ),
        default="report",
        choices=("report", "fail"),
        variables=("nvidia_prebake_uncovered",),
        fields=("SealRequest.uncovered",),
    ),
    Option(
        "gpu_generations",
        (
            "GPU generations that the image is meant for, such as V(ampere). V(kepler) is the oldest and V(rubin) the newest.",
            "The seal refuses an image if the modules of a layer do not drive one of them. Empty means all that the modules drive.",
        ),
        type="list",
        elements="str",
        default=(),
        variables=("nvidia_prebake_gpu_generations",),
        fields=("SealRequest.generations",),
    ),
    _MARKER_PATH,
    Option(
        "min_free_mb",
        ("Space in MB that the seal wants free in the image, for a node that has to build the driver itself.",),
        type="int",
        default=1024,
        variables=("nvidia_prebake_seal_min_free_mb",),
        fields=("SealRequest.min_free_mb",),
    ),
    Option(
        "baked",
        ("Whether the image must hold a layer. With V(false), an image without one is not looked at; an image with one is.",),
        type="bool",
        default=True,
        fields=("SealRequest.must_be_baked",),
    ),
    BAKE["blacklist_nouveau"]._replace(
        says=(
            "The value that the bake had. With V(true), the bake's blacklist files must be there, unchanged and in every initramfs, unless "
            "the image needs none. With V(false), it must be nowhere.",
        ),
        fields=("SealRequest.blacklist_nouveau",),
    ),
)

SEAL_REPORT = _table(
    Option(
        "seal_report_path",
        (
            "Absolute path of a file on the controller that gets the seal's report as JSON, also if the image is refused. The folder is "
            "created.",
            "Empty means no such file.",
        ),
        default="",
        variables=("nvidia_prebake_seal_report_path",),
        controller=True,
    ),
)

# --- the boot ---------------------------------------------------------------------------------------------------------

BOOT = _table(
    Option(
        "managed",
        (
            "Whether the driver of this node is managed here. With V(false), nothing is done, except that a layer that this node has used "
            "before is deactivated.",
        ),
        type="bool",
        default=True,
        variables=("gpu_boot_managed",),
        fields=("Policy.managed",),
    ),
    Option(
        "expected_gpus",
        (
            "Number of GPUs that the node must have. GPUs that are late are waited for (O(late_gpus_s)), and a missing one is an error.",
            "V(auto) means as many as there are. A node that has lost one of eight GPUs is then still reported as healthy.",
        ),
        type="raw",
        default="auto",
        variables=("gpu_boot_expected_gpus",),
        fields=("Policy.expected_gpus",),
    ),
    Option(
        "flavour",
        ("Kernel modules that are accepted, V(open) or V(proprietary). V(any) accepts both.",),
        default="any",
        choices=_FLAVOURS,
        variables=("gpu_boot_flavour",),
        fields=("Policy.flavour",),
    ),
    Option(
        "require_digest",
        (
            "Whether to refuse a baked layer if the config digest of the driver image is unknown, in the manifest or in containerd.",
            "V(false) also accepts a driver container's marker without a manifest.",
        ),
        type="bool",
        default=True,
        variables=("gpu_boot_require_digest",),
        fields=("Policy.require_digest",),
    ),
    Option(
        "accept_no_device",
        ("Whether C(nvidia-smi) may find no device, if the driver image's marker accepts that too. For tests on a fake GPU.",),
        type="bool",
        default=False,
        variables=("gpu_boot_accept_no_device",),
        fields=("Policy.accept_no_device",),
    ),
    Option(
        "deadline_s",
        ("Seconds that the whole run may take, all tries and waits included.",),
        type="float",
        default=780.0,
        variables=("gpu_boot_deadline_s",),
        fields=("Policy.deadline_s",),
    ),
    Option(
        "tries",
        ("Maximum number of times that the driver container is run.",),
        type="int",
        default=5,
        variables=("gpu_boot_tries",),
        fields=("Policy.tries",),
    ),
    Option(
        "delay_s",
        ("Seconds to wait between two runs of the driver container.",),
        type="float",
        default=10.0,
        variables=("gpu_boot_delay_s",),
        fields=("Policy.delay_s",),
    ),
    Option(
        "try_s",
        ("Seconds that one run of the driver container may take, or what O(deadline_s) leaves if that is less.",),
        type="float",
        default=600.0,
        variables=("gpu_boot_try_s",),
        fields=("Policy.try_s",),
    ),
    Option(
        "fallback_s",
        (
            "Seconds of O(deadline_s) that are reserved for a full install while the fast path is tried. They must be fewer than "
            "O(deadline_s).",
        ),
        type="float",
        default=240.0,
        variables=("gpu_boot_fallback_s",),
        fields=("Policy.fallback_s",),
    ),
    Option(
        "late_gpus_s",
        ("Seconds to wait for GPUs that are expected and not yet on the PCI bus. With O(expected_gpus=auto), there is no wait.",),
        type="float",
        default=30.0,
        variables=("gpu_boot_late_gpus_s",),
        fields=("Policy.late_gpus_s",),
    ),
    Option(
        "fabric_s",
        (
            "Seconds that each GPU may take, on a node with NVSwitches, until C(nvidia-smi) says that it has joined the NVLink fabric.",
            "Until all have, CUDA ends with error 802. GPUs join one after the other, so the limit grows with their number.",
            "V(0) does not look at it.",
        ),
        type="float",
        default=30.0,
        since="0.2.0",
        variables=("gpu_boot_fabric_s",),
        fields=("Policy.fabric_s",),
    ),
    _RESTART_CONTAINERD,
    _MARKER_PATH,
    Option(
        "progress",
        ("Whether to show the lines of the node's log as they come. This takes a few more calls to the node than one.",),
        type="bool",
        default=False,
        variables=("gpu_boot_progress",),
    ),
)

BOOT_PLAYBOOK = _table(
    Option(
        "report_folder",
        (
            "Folder on the controller in which C(playbooks/boot.yml) writes the result of each node, as JSON in a file with the node's "
            "name. The folder is created.",
            "If this is not set, no such file is written.",
        ),
        variables=("gpu_boot_report_folder",),
        controller=True,
    ),
)

# --- taking away ------------------------------------------------------------------------------------------------------

REMOVE = _table(
    Option(
        "scope",
        (
            "What to remove. V(everything) removes the driver, the records and reports of bakes and boots, captured layers, and the logs.",
            "V(driver) removes the driver and the records that say what is ours. Captured layers stay inert in the store for a later boot. "
            "Reports, release notes in the store and logs stay too.",
        ),
        default="everything",
        choices=("everything", "driver"),
        variables=("gpu_remove_scope",),
        fields=("RemoveRequest.scope",),
    ),
    Option(
        "images",
        (
            "Whether to remove from containerd also the driver images that we have pulled or that our documents mention, under every name "
            "that they have there. A later boot or bake then pulls again.",
            "With V(false) they stay. If everything else is removed, they are no longer pinned, so kubelet may delete them.",
        ),
        type="bool",
        default=False,
        variables=("gpu_remove_images",),
        fields=("RemoveRequest.images",),
    ),
    _IN_USE,
    _RESTART_CONTAINERD,
    Option(
        "deadline_s",
        ("Seconds for stopping services and unloading modules, and as many again for a restart of containerd.",),
        type="float",
        default=300.0,
        variables=("gpu_remove_deadline_s",),
        fields=("RemoveRequest.deadline_s",),
    ),
    _MARKER_PATH,
    _RELEASE_NOTES,
)

# --- one layer --------------------------------------------------------------------------------------------------------

LAYER = _table(
    Option(
        "layer",
        (
            "Name of the layer, which is the name of its folder in the store. Needed for O(state=active) and O(state=absent).",
            "With O(state=inactive), an active layer of another name stays. Without a name, whatever layer is active is deactivated.",
        ),
    ),
    Option(
        "state",
        (
            "V(active) activates the layer, V(inactive) deactivates it, V(absent) discards it from the store.",
            "An active layer cannot be discarded. A layer that version 0.1.0 baked in place can neither be activated nor discarded.",
        ),
        default="active",
        choices=("active", "inactive", "absent"),
    ),
    _IN_USE._replace(
        says=(
            "What to do with O(state=inactive) if the driver is in use. V(refuse) fails, names who uses it, and touches nothing.",
            "V(until_reboot) removes the files all the same. The modules stay until the node reboots, and work that uses them may fail "
            "until then.",
            "If a GPU operator or a distribution also has a driver on the node, modules that are in use stay in any case.",
        ),
        variables=(),
        fields=(),
    ),
)

# --- the roles' variables themselves ----------------------------------------------------------------------------------

NAMES = _table(
    Option(
        "ignored_variables",
        (
            "Names that begin with the role's name and belong to another role or to you, not to the role. The role does not refuse them. A "
            "C(*) at the end of a name stands for anything.",
        ),
        type="list",
        elements="str",
        default=(),
        variables=("nvidia_prebake_ignored_variables", "gpu_boot_ignored_variables", "gpu_remove_ignored_variables"),
        since="0.2.0",
    ),
)

CHECK = _table(
    Option(
        "role",
        (
            "The role whose variables are checked: V(nvidia_prebake), V(gpu_boot) or V(gpu_remove).",
            "Without a role, only O(report_files) are checked.",
        ),
        choices=("nvidia_prebake", "gpu_boot", "gpu_remove"),
    ),
    *NAMES.values(),
    Option(
        "report_files",
        (
            "Files on the controller that the run writes later, each by the variable that names it. An empty path stands for no file.",
            "The action fails if one of them cannot be written. It writes nothing.",
        ),
        type="dict",
    ),
)

# --- who takes what ---------------------------------------------------------------------------------------------------

MODULES: dict[str, tuple[Table, ...]] = {
    "check_variables": (CHECK,),
    "driver_image": (IMAGE, PULL, SOURCE),
    "gpu_boot": (IMAGE, BOOT, SOURCE),
    "gpu_layer": (LAYER,),
    "gpu_remove": (REMOVE,),
    "image_seal": (SEAL,),
    "prebake_info": (IMAGE, BAKE, SIGNING),
    "prebake_layer": (IMAGE, BAKE, SIGNING, BUILD),
}

# For each entry point of a role: its variables, in groups, in the order in which documents list them.
ROLES: dict[str, dict[str, tuple[Table, ...]]] = {
    "nvidia_prebake": {
        "main": (SWITCH, IMAGE, SOURCE, BAKE, TOOLS, SIGNING, PULL, BUILD, BAKE_REPORT, SEAL, SEAL_REPORT, NAMES),
        "seal": (SWITCH, SEAL, SEAL_REPORT, NAMES),
    },
    "gpu_boot": {"main": (IMAGE, SOURCE, BOOT, NAMES)},
    "gpu_remove": {"main": (REMOVE, NAMES)},
}

# Beyond the variables of the role that it runs.
PLAYBOOKS: dict[str, Table] = {"boot": BOOT_PLAYBOOK}

# The results that a role leaves in variables, as its README documents them.
RESULTS: dict[str, tuple[str, ...]] = {
    "nvidia_prebake": ("nvidia_prebake_result", "nvidia_prebake_seal"),
    "gpu_boot": ("gpu_boot_result",),
    "gpu_remove": ("gpu_remove_result",),
}


def variables_of(role: str) -> tuple[str, ...]:
    """Every variable of a role: its options, of all entry points and of our playbooks, and its results."""
    tables = (*(table for groups in ROLES[role].values() for table in groups), *PLAYBOOKS.values())
    options = {name: None for table in tables for option in table.values() for name in option.variables if name.startswith(f"{role}_")}
    return (*options, *RESULTS[role])


def of_module(name: str) -> Table:
    """All options of a module."""
    return {option.name: option for table in MODULES[name] for option in table.values()}
