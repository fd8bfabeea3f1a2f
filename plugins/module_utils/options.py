"""Options that several modules have, as argument specifications; documented in doc_fragments/options.py."""

from __future__ import annotations

from typing import Any

Spec = dict[str, dict[str, Any]]

IMAGE: Spec = {
    "image": {"type": "raw", "required": True},
    "pull_image": {"type": "str"},
    "kind": {"type": "str"},
    "version": {"type": "raw"},
}

SOURCE: Spec = {
    "hosts_dir": {"type": "str", "default": "/etc/containerd/certs.d"},
    "registry_username": {"type": "str"},
    "registry_password": {"type": "str", "no_log": True},
    "registry_ca": {"type": "str"},
    "registry_plain_http": {"type": "bool", "default": False},
    "image_archive": {"type": "str"},
    "image_archive_remote_src": {"type": "bool", "default": False},
}

SIGNING: Spec = {
    "signing_key": {"type": "str", "no_log": False},
    "signing_certificate": {"type": "str"},
    "signing_pin": {"type": "str", "no_log": True},
    "signing_remote_src": {"type": "bool", "default": False},
}

BAKE: Spec = {
    "kernels": {"type": "raw", "default": "newest"},
    "flavour": {"type": "str", "choices": ["any", "open", "proprietary"], "default": "any"},
    "mode": {"type": "str", "choices": ["captured", "in_place"], "default": "captured"},
    "blacklist_nouveau": {"type": "bool", "default": True},
    "marker_path": {"type": "str", "default": "/opt/azure/aks-gpu/dkms-marker"},
    "min_free_mb": {"type": "int", "default": 3072},
}
