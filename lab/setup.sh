#!/usr/bin/env bash
# Prepares a Debian machine for the lab: installs its Debian packages and creates its Python environment. It prints what it changes.
# usage: setup.sh [PACKAGE…] also install these Debian packages
#        setup.sh --venv     only print the folder of the Python environment, which may not exist yet
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(dirname "$here")
cache=${GPU_PREBAKE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/gpu-prebake}
python=/usr/bin/python3
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
lock=$top/requirements/lab-py$version.txt
[ -r "$lock" ] || { echo "setup: $lock is missing: add Python $version to requirements/lock.sh, and run make locks" >&2; exit 1; }
key=$(cat "$lock" <("$python" -V 2>&1) | sha256sum | cut -c1-16)
venv=$cache/venv-$key

if [ "${1:-}" = --venv ]; then
  echo "$venv"
  exit 0
fi

say() { echo "setup: $*"; }

as_root=()
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { say "not root, and sudo is not installed: run this as root, or install sudo" >&2; exit 1; }
  as_root=(sudo)
fi
[ -r /etc/debian_version ] || { say "this is not a Debian machine: run the lab on Debian 12, the only system that it is tested on" >&2; exit 1; }

mapfile -t wanted < <(grep -Ev '^(#|$)' "$here/packages.txt")
wanted+=("$@")
missing=()
for package in "${wanted[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  say "installing Debian packages: ${missing[*]}"
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
  # The lab starts its own registry when it needs one. Debian's package starts one at once, on every address.
  if [[ " ${missing[*]} " == *" docker-registry "* ]] && [ -d /run/systemd/system ]; then
    say "stopping the registry service that Debian's docker-registry package has started"
    "${as_root[@]}" systemctl disable --now docker-registry
  fi
fi

if [ ! -e "$venv/.complete" ]; then
  say "creating the Python environment $venv"
  mkdir -p "$cache"
  exec 9>"$cache/venv.lock"
  flock 9
  if [ ! -e "$venv/.complete" ]; then
    rm -rf "$venv"
    "$python" -m venv "$venv"
    # Wheels only: a source distribution would be built with packages that no lock names.
    "$venv/bin/pip" install -q --require-hashes --only-binary :all: -r "$lock"
    touch "$venv/.complete"
  fi
fi
