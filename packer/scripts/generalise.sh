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

# Every machine from the image would have these keys, and whoever has one could pose as all of them. Debian's and Ubuntu's packages make
# keys when they are installed, and never again; cloud-init makes new ones only where it runs. This service makes those that are missing.
rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
if command -v sshd >/dev/null || [ -x /usr/sbin/sshd ]; then
    cat >/etc/systemd/system/ssh-host-keys.service <<'UNIT'
[Unit]
Description=Make the SSH host keys of a new machine
ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key
After=cloud-init.service cloud-init-network.service
Before=ssh.service

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=multi-user.target ssh.service
UNIT
    systemctl enable ssh-host-keys.service
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
