#!/bin/sh
# Upgrades all packages (UPGRADE=true) and reboots (REBOOT=auto, always, never). The driver is built for the kernel that will boot, so a new
# kernel must be installed, and running, before the bake. The reboot cuts Packer's connection (expect_disconnect).
set -eu

kernels() {
    find /lib/modules -mindepth 2 -maxdepth 2 -name kernel
}

before=$(kernels | sort)
if [ "$UPGRADE" = true ]; then
    export DEBIAN_FRONTEND=noninteractive
    # Keep changed configuration files: a question about one would wait for ever.
    keep="-o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=300"
    apt-get update -q
    # shellcheck disable=SC2086 # several words
    apt-get dist-upgrade -q -y $keep
fi

case $REBOOT in
always) why="the variable reboot is always" ;;
auto)
    why=
    [ "$(kernels | sort)" = "$before" ] || why="the upgrade changed the kernels"
    [ ! -e /run/reboot-required ] || why="a package asks for it"
    ;;
*) why= ;;
esac
if [ -n "$why" ]; then
    echo "rebooting: $why"
    systemctl reboot
    # Wait here, so that no further step begins before the connection is cut.
    sleep 300
    echo "the machine has not rebooted after 300 s" >&2
    exit 1
fi
echo "no reboot: kernel $(uname -r)"
