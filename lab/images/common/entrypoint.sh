#!/bin/bash
# Entrypoint of a driver image that follows the driver-container contract (lab/images/README.md has the table of actions).
# usage: entrypoint.sh copy|install|build-only|install-skip-build [sleep]
# Runs in the driver container; everything but the two copies happens in the mount namespace of its PID 1.
set -euo pipefail

step() { echo "T $(date +%s.%N) $*"; }

action=${1:-}
[ -n "$action" ] || { echo "entrypoint.sh: no action given" >&2; exit 1; }
step entry

# The lines with a mark at their end are left out of an image that is older than prebaking.
environment=()
known=false
case $action in
  copy | install) known=true ;;
  build-only) known=true environment=(AKSGPU_BUILD_ONLY=1) ;; # not in older images
  install-skip-build) known=true environment=(AKSGPU_SKIP_KERNEL_BUILD=1) ;; # not in older images
esac
if $known; then
  cp -a /opt/gpu/. /mnt/gpu/
  step copied
fi

# An unknown action is not refused here: install.sh fails because config.sh is missing, as upstream's does.
if [ "$action" != copy ]; then
  cp -a /opt/actions/. /mnt/actions/
  nsenter -t 1 -m env "${environment[@]}" bash /opt/actions/install.sh
  shopt -s dotglob nullglob
  rm -rf /mnt/actions/*
fi
step finished

# With a second argument the container does not end: that is how upstream's pods stay "running".
[ -z "${2:-}" ] || exec sleep infinity
