#!/usr/bin/env bash
# Lays out the package as a wheel would, from links, since type checkers cannot follow an editable install.
set -eu
python=$1 tree=$2
rm -rf "$tree"
mkdir -p "$tree/penstock"
for part in penstock/__init__.py penstock/py.typed; do ln -s "$PWD/$part" "$tree/penstock/"; done
ln -s "$PWD/runtime" "$PWD/actors" "$tree/penstock/"
ln -s "$PWD/csrc/bind/_native.pyi" "$tree/penstock/"
ln -s "$("$python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/penstock/protos" "$tree/penstock/"
