#!/usr/bin/env bash
# Builds the wheel, installs it in an environment of its own without any extra, and looks at it as a user would.
set -eu
python=$(realpath -s "$1") out=$2
rm -rf "$out"
mkdir -p "$out"
PATH="$(dirname "$python"):$PATH" "$python" -m pip wheel --quiet --no-build-isolation --no-deps -w "$out" .
"$python" -m venv "$out/venv"
tools/pip_install.sh "$out/venv/bin/python" "installing the wheel" "$out"/*.whl
cd "$out"
venv/bin/python - <<'PY'
import sys
import penstock, penstock._native
import penstock.actors.cli.serve, penstock.actors.engine.client
heavy = {"torch", "numpy", "vllm", "matplotlib", "rich"} & set(sys.modules)
assert not heavy, f"serving must not import {heavy}"
print("penstock", penstock.__version__, "imports without", "torch, numpy, vllm")
PY
venv/bin/penstock --help >/dev/null
# Types are checked on what the wheel holds; stubs and extras come from the development environment.
"$python" -m zipfile -e ./*.whl unpacked
MYPYPATH=unpacked "$python" -m mypy -p penstock --config-file "$OLDPWD/pyproject.toml" --cache-dir mypy-cache
