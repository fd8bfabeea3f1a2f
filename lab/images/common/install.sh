#!/bin/bash
# What a driver image does on the host, by the driver-container contract. Runs in the mount namespace of the PID 1
# that the container was given, with the host's tools. Every step prints `T <epoch.ns> <step>` when it is done.
#   AKSGPU_BUILD_ONLY=1          compile, register, stage user space, write the marker; no device access
#   AKSGPU_SKIP_KERNEL_BUILD=1   device initialisation only, if marker and module are right
# A failure leaves everything as it is, mounts and /opt/gpu included: the caller must clean up.
set -euo pipefail
# shellcheck source=/dev/null
. /opt/gpu/config.sh # DRIVER_VERSION DRIVER_KIND ACCEPT_NO_DEVICE REFUSE_SKIP

marker=/opt/azure/aks-gpu/dkms-marker
triplet=$(uname -m)-linux-gnu
collected=/usr/bin/lib64
overlay=/tmp/overlay

step() { echo "T $(date +%s.%N) $*"; }

# Prints the kernel release to build for.
target_kernel() {
  local newest=
  if [ "${AKSGPU_BUILD_ONLY:-}" = 1 ]; then
    newest=$(find /lib/modules/ -mindepth 2 -maxdepth 2 -name build | cut -d/ -f4 | sort -V | tail -n 1)
  fi
  echo "${newest:-$(uname -r)}"
}

# Prints the value of the marker's key $1, from the first line that has it; nothing if there is none.
marker_value() {
  local key value
  [ -r "$marker" ] || return 0
  while IFS='=' read -r key value || [ -n "$key" ]; do
    if [ "$key" = "$1" ]; then
      echo "$value"
      return 0
    fi
  done < "$marker"
}

# Prints why the kernel build cannot be skipped; nothing if it can.
why_not_skip() {
  local kernel
  kernel=$(uname -r)
  if [ ! -r "$marker" ]; then
    echo "there is no marker $marker"
  elif [ "$(marker_value kernel)" != "$kernel" ]; then
    echo "the marker is for kernel '$(marker_value kernel)', this is '$kernel'"
  elif [ "$(marker_value driver_version)" != "$DRIVER_VERSION" ]; then
    echo "the marker is for driver '$(marker_value driver_version)', this image has '$DRIVER_VERSION'"
  elif [ "$(marker_value driver_kind)" != "$DRIVER_KIND" ]; then
    echo "the marker is for kind '$(marker_value driver_kind)', this image is '$DRIVER_KIND'"
  elif ! ldconfig >&2; then
    echo "ldconfig failed"
  elif ! dkms status >&2; then
    echo "dkms status failed"
  elif ! modinfo -k "$kernel" nvidia >/dev/null; then
    echo "modinfo finds no module nvidia for kernel $kernel"
  elif [ "$REFUSE_SKIP" = 1 ]; then
    echo "this image's own check refuses (build argument refuse_skip)"
  fi
}

# An earlier run may have failed between mounting and unmounting.
drop_overlay() {
  while mountpoint -q "/usr/lib/$triplet"; do umount -l "/usr/lib/$triplet"; done
  while mountpoint -q "$overlay"; do umount -l "$overlay"; done
  [ ! -e "$overlay" ] || rmdir "$overlay"
}

# An overlay over /usr/lib/<triplet> collects what NVIDIA's installer writes there. Its upper folder is on a tmpfs, so
# that this also works where / is an overlay itself.
raise_overlay() {
  mkdir "$overlay"
  mount -t tmpfs tmpfs "$overlay"
  mkdir "$overlay/workdir" "$overlay/lib64"
  mount -t overlay overlay -o "lowerdir=/usr/lib/$triplet,upperdir=$overlay/lib64,workdir=$overlay/workdir" \
    "/usr/lib/$triplet"
}

write_marker() { # kernel
  mkdir -p "$(dirname "$marker")"
  {
    echo "kernel=$1"
    echo "driver_version=$DRIVER_VERSION"
    echo "driver_kind=$DRIVER_KIND"
    echo "arch=$(uname -m)"
    [ "$ACCEPT_NO_DEVICE" != 1 ] || echo "accept_no_device=1"
  } > "$marker.new"
  mv "$marker.new" "$marker"
}

build() {
  local kernel
  kernel=$(target_kernel)
  echo "building driver $DRIVER_VERSION ($DRIVER_KIND) for kernel $kernel"
  lsof /dev/nvidia* 2>/dev/null || true # who holds the device: for the log only

  cp /opt/gpu/blacklist-nouveau.conf /etc/modprobe.d/blacklist-nouveau.conf
  update-initramfs -u
  step initramfs

  drop_overlay
  raise_overlay
  step overlay
  /opt/gpu/nvidia-installer -s "-k=$kernel" -a --no-drm --dkms
  step installer

  mkdir -p "$collected"
  cp -a "$overlay/lib64" "$collected/"
  echo "$collected/lib64" > /etc/ld.so.conf.d/nvidia.conf
  ldconfig
  drop_overlay
  step libraries

  dkms status
  modinfo -k "$kernel" nvidia | sed '/^signature:/d; /^\t\t/d' # without the bytes of the signature
  step registered

  write_marker "$kernel"
  step marker
}

# nvidia-smi with a time limit: without persistence it takes up to 30 s for each GPU. Its exit status 6, "No devices were
# found", is accepted only by an image that was built for GPUs that never answer.
ask_driver() {
  local rc=0
  timeout -k 10 300 nvidia-smi || rc=$?
  if [ "$rc" = 6 ] && [ "$ACCEPT_NO_DEVICE" = 1 ]; then
    echo "nvidia-smi found no device: let pass by this image's build argument accept_no_device"
    return 0
  fi
  return "$rc"
}

initialise_device() {
  nvidia-modprobe -u -c0
  step modprobe
  cp -a "$collected/lib64/." "/usr/lib/$triplet/"
  ldconfig
  step loader
  ask_driver
  step nvidia-smi

  if [ "$DRIVER_KIND" = cuda ]; then
    dpkg -i /opt/gpu/packages/fabricmanager/*.deb
    systemctl enable nvidia-fabricmanager
    step fabricmanager
  fi
  dpkg -i /opt/gpu/packages/toolkit/*.deb
  step toolkit
  mkdir -p /etc/containerd/config.d
  cp /opt/gpu/10-nvidia-runtime.toml /etc/containerd/config.d/10-nvidia-runtime.toml
  cp /opt/gpu/71-nvidia-dev-char.rules /lib/udev/rules.d/71-nvidia-dev-char.rules
  nvidia-ctk system create-dev-char-symlinks --create-all
  step configuration
  systemctl restart nvidia-cdi-refresh
  step cdi
}

step "start ${AKSGPU_BUILD_ONLY:+build-only}${AKSGPU_SKIP_KERNEL_BUILD:+install-skip-build}"
if [ "${AKSGPU_BUILD_ONLY:-}" = 1 ]; then
  build
else
  refused=asked-for
  if [ "${AKSGPU_SKIP_KERNEL_BUILD:-}" = 1 ]; then
    refused=$(why_not_skip)
    if [ -z "$refused" ]; then
      echo "skipping the kernel build: marker and module check out"
    else
      echo "cannot skip the kernel build: $refused"
    fi
    step skip-check
  fi
  [ -z "$refused" ] || build
  initialise_device
fi
rm -r /opt/gpu
step end
