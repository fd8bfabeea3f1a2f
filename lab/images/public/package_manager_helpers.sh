#!/usr/bin/env bash
# Functions of install.sh about packages.

install_toolkit() { # version, names of packages
  local try name files=()
  for name in $2; do files+=(/opt/gpu/"${name}_$1"*.deb); done
  for try in 1 2 3 4 5 6 7 8 9 10; do
    if dpkg --configure -a && dpkg -i --force-overwrite "${files[@]}"; then
      return 0
    fi
    echo "try $try: dpkg failed"
    sleep 5
  done
  return 1
}
