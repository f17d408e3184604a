#!/usr/bin/env bash
# Builds the native module and the protocol stubs and installs the package in editable form, unless nothing changed.
# Python sources are read in place; only a file that came or went needs a new install, so their names are an input.
set -eu
python=$1 stamp=$2
inputs="pyproject.toml constraints.txt CMakeLists.txt cmake csrc protos"
modules=$(find penstock runtime actors -name '*.py' | sort)
if [ -e "$stamp" ] && [ "$(cat "$stamp")" = "$modules" ] &&
   [ -z "$(find $inputs -newer "$stamp" -print -quit)" ]; then exit 0; fi
what="compiling what changed"
[ -e "$stamp" ] || what="installing all packages and compiling the native module, once: some minutes"
started=$(mktemp); trap 'rm -f "$started"' EXIT
PATH="$(dirname "$python"):$PATH" tools/pip_install.sh "$python" "$what" --no-build-isolation -e '.[demo,replay,s3,fsspec,mooncake,nixl,transforms,dev,fuzz]'
printf '%s\n' "$modules" >"$stamp"
touch -r "$started" "$stamp"
