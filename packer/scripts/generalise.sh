#!/bin/sh
# The last step: takes out what makes this machine this machine, so that each node of the image is a new one.
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

# Stopped, because at shutdown it would write a seed again, the same for every node.
systemctl stop systemd-random-seed
# Empty, not absent: an absent one makes the next boot a first boot with systemd's presets.
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id /var/lib/systemd/random-seed
find /var/log/journal -mindepth 1 -delete 2>/dev/null || true
# Packer's copies of its scripts, this one too.
rm -f /tmp/script_*.sh
sync
echo "generalised"
