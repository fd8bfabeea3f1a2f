#!/usr/bin/env bash
# What a public driver image does on the host (docs/contract.md), with the stand-in's driver. Runs in the mount namespace of the PID 1 that
# the container was given.
#   AKSGPU_BUILD_ONLY=1          compile, register, stage user space, write the marker; no device access
#   AKSGPU_SKIP_KERNEL_BUILD=1   device initialisation only, if marker and module are right
PS4='+ $(date --iso-8601=seconds) '
set -euxo pipefail

# shellcheck source=/dev/null
source /opt/gpu/config.sh # DRIVER_VERSION DRIVER_KIND NVIDIA_CONTAINER_TOOLKIT_VER NVIDIA_PACKAGES GPU_DEST
# shellcheck source=lab/images/public/package_manager_helpers.sh
source /opt/gpu/package_manager_helpers.sh

ARCH=$(uname -m)
TRIPLET="$ARCH-linux-gnu"
OVERLAY=/tmp/overlay
MARKER=/opt/azure/aks-gpu/dkms-marker
RUNFILE="/opt/gpu/NVIDIA-Linux-$ARCH-$DRIVER_VERSION"
[ "$DRIVER_KIND" != grid ] || RUNFILE+="-grid-azure"
LOG="/var/log/nvidia-installer-$(date +%s).log"

choose_kernel() {
  local newest=
  if [ "${AKSGPU_BUILD_ONLY:-0}" = 1 ]; then
    newest=$(find /lib/modules/ -mindepth 2 -maxdepth 2 -name build -printf '%h\n' | sed 's|.*/||' | sort -V | tail -n 1)
  fi
  KERNEL=${newest:-$(uname -r)}
}

# Also the trap of this script: a run that fails leaves no overlay, unless it is killed.
drop_overlay() {
  local mounted
  for mounted in "/usr/lib/$TRIPLET" "$OVERLAY"; do
    while mountpoint -q "$mounted"; do umount -l "$mounted"; done
  done
  rm -rf "$OVERLAY"
}

collect_libraries() { # runs the installer under an overlay, with its upper folder on a tmpfs
  mkdir "$OVERLAY"
  mount -t tmpfs tmpfs "$OVERLAY"
  mkdir "$OVERLAY/workdir" "$OVERLAY/lib64"
  mount -t overlay overlay -o "lowerdir=/usr/lib/$TRIPLET,upperdir=$OVERLAY/lib64,workdir=$OVERLAY/workdir" "/usr/lib/$TRIPLET"
  "$RUNFILE/nvidia-installer" -s -k="$KERNEL" --log-file-name="$LOG" -a --no-drm --dkms
  mkdir -p "$GPU_DEST/lib64"
  cp -a "$OVERLAY/lib64/." "$GPU_DEST/lib64/"
  echo "$GPU_DEST/lib64" > /etc/ld.so.conf.d/nvidia.conf
  ldconfig
  drop_overlay
}

write_marker() {
  local temporary="$MARKER.tmp.$$"
  mkdir -p "$(dirname "$MARKER")"
  printf '%s\n' "kernel=$KERNEL" "driver_version=$DRIVER_VERSION" "driver_kind=$DRIVER_KIND" "arch=$ARCH" > "$temporary"
  mv "$temporary" "$MARKER"
}

build() {
  choose_kernel
  cp /opt/gpu/blacklist-nouveau.conf /etc/modprobe.d/blacklist-nouveau.conf
  update-initramfs -u
  drop_overlay
  trap drop_overlay EXIT
  collect_libraries
  dkms status
  modinfo -k "$KERNEL" nvidia > /dev/null
  write_marker
}

marker_says() { # key, value
  [ "$(grep -m 1 "^$1=" "$MARKER" | cut -d= -f2)" = "$2" ]
}

may_skip() {
  [ -r "$MARKER" ] && marker_says kernel "$(uname -r)" && marker_says driver_version "$DRIVER_VERSION" \
    && marker_says driver_kind "$DRIVER_KIND" && ldconfig && dkms status && modinfo -k "$(uname -r)" nvidia > /dev/null
}

install_fabric_manager() {
  bash /opt/gpu/fm_run_package_installer.sh "/opt/gpu/fabricmanager-linux-$ARCH-$DRIVER_VERSION"
  systemctl enable nvidia-fabricmanager
}

initialise_device() {
  nvidia-modprobe -u -c0
  cp -a "$GPU_DEST/lib64/." "/usr/lib/$TRIPLET/"
  ldconfig
  nvidia-smi
  [ "$DRIVER_KIND" != cuda ] || [ "$ARCH" = aarch64 ] || install_fabric_manager
  install_toolkit "$NVIDIA_CONTAINER_TOOLKIT_VER" "$NVIDIA_PACKAGES"
  mkdir -p /etc/containerd/config.d
  cp /opt/gpu/10-nvidia-runtime.toml /etc/containerd/config.d/10-nvidia-runtime.toml
  cp /opt/gpu/71-nvidia-char-dev.rules /lib/udev/rules.d/71-nvidia-dev-char.rules
  nvidia-ctk system create-dev-char-symlinks --create-all
  systemctl restart nvidia-cdi-refresh
}

if [ "${AKSGPU_SKIP_KERNEL_BUILD:-0}" != 1 ] || ! may_skip; then
  build
fi
if [ "${AKSGPU_BUILD_ONLY:-0}" != 1 ]; then
  initialise_device
fi
rm -r /opt/gpu
