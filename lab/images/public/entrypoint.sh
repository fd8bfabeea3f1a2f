#!/usr/bin/env bash
# Entrypoint of a driver image that does all that the public images do (docs/contract.md): traces, and folders that it empties itself.
# usage: entrypoint.sh copy|install|build-only|install-skip-build [sleep]
set -euo pipefail
set -x

action=${1:-}
if [ -z "$action" ]; then
  echo "entrypoint.sh: an action is needed" >&2
  exit 1
fi

rm -r /mnt/gpu/* || true # the first run finds nothing there

variables=()
case $action in
  copy | install | build-only | install-skip-build)
    cp -a /opt/gpu/. /mnt/gpu/
    [ "$action" != build-only ] || variables+=(AKSGPU_BUILD_ONLY=1)
    [ "$action" != install-skip-build ] || variables+=(AKSGPU_SKIP_KERNEL_BUILD=1)
    ;;
esac

# Another word is not refused here: install.sh fails because nothing was copied.
if [ "$action" != copy ]; then
  cp -R /opt/actions/. /mnt/actions
  nsenter -t 1 -m env "${variables[@]}" bash /opt/actions/install.sh
  rm -rf /mnt/actions/*
fi

[ -z "${2:-}" ] || exec sleep infinity
