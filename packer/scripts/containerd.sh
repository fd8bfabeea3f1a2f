#!/bin/sh
# Installs containerd and makes its configuration import config.d, where the driver container puts the nvidia runtime. Skips what is
# already done.
set -eu

if ! command -v containerd >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 containerd
fi

config=/etc/containerd/config.toml
mkdir -p /etc/containerd/config.d
if [ ! -s "$config" ]; then
    echo 'version = 2' >"$config"
fi
if ! grep -q '^imports' "$config"; then
    # A top-level key must be above the first table.
    sed -i '1i imports = ["/etc/containerd/config.d/*.toml"]' "$config"
    systemctl restart containerd
fi
systemctl enable -q --now containerd
containerd --version
