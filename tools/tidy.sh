#!/usr/bin/env bash
# clang-tidy over the native sources, as compiled for the plain native tests.
set -eu
PATH="$PWD/.venv/bin:$PATH"
cmake -S . -B build/csrc-plain -G Ninja -DPENSTOCK_TESTS=ON -DPENSTOCK_SANITIZE= >/dev/null
git ls-files 'csrc/core/*.cpp' 'csrc/copy/*.cpp' 'csrc/io/*.cpp' |
  xargs -P 2 -n 4 clang-tidy -p build/csrc-plain --quiet
