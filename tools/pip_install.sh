#!/usr/bin/env bash
# pip install with this project's pins; a failure ends in one clear sentence.
set -eu
python=$1; shift
log=$(mktemp); trap 'rm -f "$log"' EXIT
if ! "$python" -m pip install --quiet --disable-pip-version-check -c constraints.txt "$@" >"$log" 2>&1; then
  if grep -qiE 'NewConnectionError|Temporary failure in name resolution|ConnectTimeout|Network is unreachable' "$log"; then
    echo "penstock: the Python package index cannot be reached: connect this machine to it (or set pip's index-url) and run the same command again." >&2
  else
    cat "$log" >&2
    echo "penstock: installing the Python packages failed; pip's own words are above." >&2
  fi
  exit 1
fi
