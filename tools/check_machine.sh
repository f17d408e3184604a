#!/usr/bin/env bash
# Says in one sentence what this machine lacks, before anything is downloaded.
set -eu
python=$1
fail() { echo "penstock: $1" >&2; exit 1; }
command -v "$python" >/dev/null || fail "no '$python' on the PATH: install Python 3.11, 3.12 or 3.13 (Debian: apt install python3 python3-venv)."
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' ||
  fail "Python $("$python" -c 'import platform; print(platform.python_version())') is not supported: use 3.11, 3.12 or 3.13, as in: make PYTHON=python3.12 test"
"$python" -c 'import venv, ensurepip' 2>/dev/null || fail "Python has no venv module: apt install python3-venv"
"$python" -c 'import sysconfig, pathlib, sys; sys.exit(not (pathlib.Path(sysconfig.get_path("include")) / "Python.h").exists())' ||
  fail "Python's C headers are missing: apt install python3-dev"
command -v g++ >/dev/null || fail "no C++ compiler: install g++ 12 or newer (Debian: apt install g++)."
version=$(g++ -dumpversion | cut -d. -f1)
[ "$version" -ge 12 ] || fail "g++ $version is too old for the native module: install g++ 12 or newer."
command -v flock >/dev/null || fail "no 'flock': apt install util-linux"
