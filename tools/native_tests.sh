#!/usr/bin/env bash
# Builds and runs the native tests once for each sanitizer named: "" (none), address (with undefined), thread.
set -eu
PATH="$PWD/.venv/bin:$PATH"
for sanitizer in "$@"; do
  build=build/csrc-${sanitizer:-plain}
  cmake -S . -B "$build" -G Ninja -DPENSTOCK_TESTS=ON -DPENSTOCK_SANITIZE="$sanitizer" >/dev/null
  cmake --build "$build"
  # setarch: older ThreadSanitizers do not know the wide address randomisation of newer kernels.
  setarch --addr-no-randomize ctest --test-dir "$build" --output-on-failure -j 2
done
