#!/usr/bin/env bash
# pip install with this project's pins: says what for, and how it goes on; a failure ends in one clear sentence.
#   pip_install.sh PYTHON WHAT ARGUMENT...
set -eu -o pipefail
python=$1 what=$2; shift 2
log=$(mktemp); trap 'rm -f "$log"' EXIT
echo "penstock: $what" >&2
if ! "$python" -m pip install --progress-bar off --disable-pip-version-check -c constraints.txt "$@" 2>&1 |
  tee "$log" | awk -v known="$(grep -c == constraints.txt)" -f tools/pip_progress.awk >&2; then
  if grep -qiE 'NewConnectionError|Temporary failure in name resolution|ConnectTimeout|Network is unreachable' "$log"; then
    echo "penstock: The Python package index cannot be reached: connect this machine to it (or set pip's index-url) and run the same command again." >&2
  else
    cat "$log" >&2
    echo "penstock: installing the Python packages failed; pip's own words are above." >&2
  fi
  exit 1
fi
