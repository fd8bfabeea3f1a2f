#!/bin/sh
# The last step: removes the identity of the build machine, so that each node from the image is a new machine.
set -eu

rm -rf /root/.ansible /root/.ansible_async
if [ -n "${SUDO_USER:-}" ]; then
    home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
    rm -rf "$home/.ansible" "$home/.ansible_async"
fi

if command -v cloud-init >/dev/null; then
    cloud-init clean --logs
fi
# Azure's agent also removes the login of the build.
if [ "$PACKER_BUILDER_TYPE" = azure-arm ]; then
    waagent -force -deprovision+user
fi

# Stop this service: at shutdown it would write a seed again, and every node would begin with the same seed.
systemctl stop systemd-random-seed
# Empty the file but keep it: without the file, systemd treats the next boot as a first boot and applies its presets.
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id /var/lib/systemd/random-seed
find /var/log/journal -mindepth 1 -delete 2>/dev/null || true
# Packer's copies of the scripts, including this one.
rm -f /tmp/script_*.sh
sync
echo "generalised"
