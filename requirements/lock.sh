#!/usr/bin/env bash
# Writes the locks from the .in files beside this script: for each Python in use, every package with the hashes of all files of its release.
# A lock keeps the versions that it has; to take a newer one, change its line in the .in file or delete the lock. `make locks` calls this.
set -euo pipefail
cd "$(dirname "$0")"

lock() {
  uv pip compile --quiet --no-config --no-header --no-annotate --generate-hashes --python-platform linux --python-version "$2" \
    --output-file "$1-py$2.txt" "$1.in"
}

lock lab 3.11
lock galaxy-importer 3.11
lock older-ansible 3.11
for python in 3.10 3.11 3.12 3.13; do
  lock controller "$python"
done
