# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options that several modules have, documented once; their argument specifications are in module_utils/options.py."""

from __future__ import annotations


class ModuleDocFragment:
    IMAGE = r"""
options:
  image:
    description: Canonical reference of the driver image, by tag or digest.
    type: raw
    required: true
  pull_image:
    description: Reference to pull by, where it is another one; the image is then tagged with O(image).
    type: str
  kind:
    description: Driver kind, V(cuda) or V(grid); needed where the name of O(image) does not say it.
    type: str
  version:
    description: Driver version in quotes; needed where the tag of O(image) does not say it.
    type: raw
"""

    SOURCE = r"""
options:
  hosts_dir:
    description: containerd's folder of registry hosts; mirrors are configured there, and it is used as it is.
    type: str
    default: /etc/containerd/certs.d
  registry_username:
    description:
      - User of the registry that the image is pulled from.
      - The login is given to whichever host asks for one, a mirror from O(hosts_dir) too.
    type: str
  registry_password:
    description:
      - Password or token of O(registry_username), in one line of at most 4094 bytes.
      - It is on no command line of the machine, in no file and in no result.
    type: str
  registry_ca:
    description:
      - Certificate of the authority that issued the registry's, as PEM text, or the absolute path of a file with it on the machine.
      - It is trusted for this pull only, besides what the machine trusts.
    type: str
  registry_plain_http:
    description: Whether the registry is spoken to by plain HTTP, which shows login and image to whoever listens.
    type: bool
    default: false
  image_archive:
    description:
      - File with the image, a docker or OCI archive that is not compressed and holds exactly this image under its canonical
        reference, or under the one to pull by. No registry is asked then.
      - It is on the controller, and is copied only if the image is not there yet, unless O(image_archive_remote_src) says otherwise.
    type: str
  image_archive_remote_src:
    description: Whether O(image_archive) is on the machine already, where it stays.
    type: bool
    default: false
"""

    SIGNING = r"""
options:
  signing_key:
    description:
      - Private key that every kernel module of the bake is signed with, as the path of a PEM or DER file on the controller, or as a
        C(pkcs11:) URI of a key in a token of the machine, such as V(pkcs11:token=fleet;object=modules).
      - A file reaches the machine for as long as the module runs, in a folder of root's below C(/run), in memory.
      - Without it nothing is signed, and nodes that enforce signatures refuse the modules.
    type: str
  signing_certificate:
    description: X.509 certificate that belongs to O(signing_key), as the path of a PEM or DER file on the controller.
    type: str
  signing_pin:
    description:
      - PIN of the token, or passphrase of the key. It is in no argument of any program, and in no file but in memory.
      - C(file:) and an absolute path names a file on the machine that holds it.
    type: str
  signing_remote_src:
    description: Whether the files are on the machine already, where they stay, rather than on the controller.
    type: bool
    default: false
"""

    BAKE = r"""
options:
  kernels:
    description:
      - V(newest) is the one that the boot loader takes by default. Or V(all) that are installed, a kernel release, or a list of releases.
      - In O(mode=in_place) they must come to one.
    type: raw
    default: newest
  flavour:
    description: Which kernel modules the build must give; asserted, since an unmodified image chooses by itself.
    type: str
    choices: [any, open, proprietary]
    default: any
  mode:
    description:
      - How to bake. V(captured) leaves the image as it is, and the driver as an inert layer in a store that only root may enter.
      - V(in_place) leaves the driver live in the image, for images that serve GPU nodes only.
    type: str
    choices: [captured, in_place]
    default: captured
  blacklist_nouveau:
    description:
      - Whether nouveau is blacklisted by C(/etc/modprobe.d/gpu-prebake-nouveau.conf), also in every initramfs.
      - Where no installed kernel has a module nouveau, or another file blacklists it already, nothing is written.
      - V(false) takes away what an earlier bake wrote.
    type: bool
    default: true
  marker_path:
    description: Where the driver container writes its marker.
    type: str
    default: /opt/azure/aks-gpu/dkms-marker
  min_free_mb:
    description: Space in MB that must be free before the bake, on each filesystem that it writes to.
    type: int
    default: 3072
"""
