#!/usr/bin/env bash
# Copies fabric manager from an unpacked folder ($1) to where it runs. No package owns these files.
set -euo pipefail
cd "$1"
install -m 755 bin/* /usr/bin/
cp -P lib/* "/usr/lib/$(uname -m)-linux-gnu/"
install -m 644 systemd/nvidia-fabricmanager.service /lib/systemd/system/
install -m 644 include/* /usr/include/
mkdir -p /usr/share/nvidia/nvswitch /usr/share/doc/nvidia-fabricmanager
install -m 644 share/nvidia/nvswitch/* /usr/share/nvidia/nvswitch/
install -m 644 share/doc/* /usr/share/doc/nvidia-fabricmanager/
